import pytest
import torch
from torch.testing import assert_close

from involution import Involution2d, dynamic_involution2d, involution1d, involution2d, involution3d

CALLS = {
    "1d": (involution1d, [(2, 4, 9), (2, 2, 3, 9)]),
    "2d": (involution2d, [(2, 4, 5, 6), (2, 2, 3, 3, 5, 6)]),
    "3d": (involution3d, [(1, 4, 3, 4, 5), (1, 2, 3, 3, 3, 3, 4, 5)]),
    "dynamic": (dynamic_involution2d, [(2, 4, 5, 6), (2, 3, 5, 6), (2, 3, 3, 3)]),
}
calls = pytest.mark.parametrize(("function", "sizes"), CALLS.values(), ids=CALLS)
half_types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@calls
@half_types
def test_dtype_is_that_of_the_context(function, sizes, dtype):
    leaves = [torch.randn(size, requires_grad=True) for size in sizes]
    with torch.autocast("cpu", dtype):
        out = function(*leaves, padding="same")
    assert out.dtype == dtype
    assert_close(out, function(*(t.to(dtype) for t in leaves), padding="same"))
    for leaf, gradient in zip(leaves, torch.autograd.grad(out.float().sum(), leaves), strict=True):
        assert gradient.dtype == leaf.dtype == torch.float32


@calls
@half_types
def test_float64_is_left_alone(function, sizes, dtype):
    leaves = [torch.randn(size, dtype=torch.float64) for size in sizes]
    with torch.autocast("cpu", dtype):
        out = function(*leaves, padding="same")
    assert out.dtype == torch.float64
    assert_close(out, function(*leaves, padding="same"), rtol=0, atol=0)


@half_types
@pytest.mark.parametrize("half", ["input", "weight"])
def test_mixed_types_are_cast(half, dtype):
    x, w = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 3, 3, 5, 6)
    x, w = (x.to(dtype), w) if half == "input" else (x, w.to(dtype))
    with torch.autocast("cpu", dtype):
        out = involution2d(x, w, torch.ones(4), padding=1)
    assert out.dtype == dtype
    with pytest.raises(TypeError, match=r"one dtype.*or use torch\.autocast"):
        involution2d(x, w, padding=1)


def test_switched_off_inside():
    x, w = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 3, 3, 5, 6)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert involution2d(x, w, padding=1).dtype == torch.float32


@half_types
@pytest.mark.parametrize("stride", [1, 2])
def test_module_trains_under_autocast(stride, dtype):
    module, x = Involution2d(16, 3, stride, bias=True), torch.randn(2, 16, 7, 6)
    with torch.autocast("cpu", dtype):
        out = module(x)
    assert out.dtype == dtype
    out.float().pow(2).sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())
