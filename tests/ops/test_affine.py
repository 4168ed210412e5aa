"""The fused operator with what follows it in inference."""

import random

import pytest
import torch
from tolerances import DTYPES, assert_near

from involution import dynamic_involution2d
from involution.ops import native, reference


def problem(seed):
    choose = random.Random(seed).choice
    torch.manual_seed(seed)
    dtype = choose(DTYPES)
    batch, groups, width, features = (
        choose([0, 1, 2]),
        choose([1, 2, 3]),
        choose([1, 4, 16, 20, 32]),
        choose([1, 5, 16]),
    )
    k, stride = choose([1, 3, 4, 7]), choose([1, 2])
    size = [choose([1, 5, 9, 30]), choose([2, 7, 19])]
    out = [-(-s // stride) for s in size]
    layout = choose([torch.contiguous_format, torch.channels_last])
    x = torch.randn(batch, groups * width, *size).to(dtype).contiguous(memory_format=layout)
    reduced = torch.randn(batch, features, *out).to(dtype).contiguous(memory_format=layout)
    span, bias = (torch.randn(groups, k, k, *tail).to(dtype) for tail in ((features,), ()))
    scale = torch.randn(groups * width).to(dtype) if choose([True, False]) else None
    shift = torch.randn(groups * width).to(dtype) if choose([True, False]) else None
    geometry = [stride] * 2, [(k - 1) // 2] * 2, [1, 1]
    return (x, reduced, span, bias, *geometry, scale, shift, choose([True, False]))


@pytest.mark.parametrize("seed", range(60))
def test_against_float64(seed):
    args = problem(seed)
    result = torch.ops.involution.dynamic_involution2d_affine(*args)
    x, reduced, span, bias, *geometry, scale, shift, relu = (
        a.double() if isinstance(a, torch.Tensor) else a for a in args
    )
    truth = reference.shift_forward(x, reference.span(reduced, span, bias), *geometry)
    limit = truth.abs().amax() if truth.numel() else torch.tensor(0.0)
    truth = truth if scale is None else truth * scale[:, None, None]
    truth = truth if shift is None else truth + shift[:, None, None]
    truth = truth.relu() if relu else truth
    assert result.dtype == args[0].dtype
    largest = limit * (1 if scale is None else scale.abs().amax())
    # plain PyTorch rounds the map, the output and the scaled output, too
    assert_near(result, truth, roundings=4 if native.reason else 2, largest=largest.item())


def test_opcheck():
    for seed in (1, 2, 3, 4):
        torch.library.opcheck(torch.ops.involution.dynamic_involution2d_affine.default, problem(seed))


def test_a_nan_is_not_rectified_away():
    args = [torch.full((1, 16, 5, 5), float("nan")), torch.ones(1, 4, 5, 5), torch.ones(1, 3, 3, 4)]
    assert dynamic_involution2d(*args, padding=1, relu=True).isnan().all()


def test_derivatives():
    x, reduced, span, scale, shift = (
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((1, 4, 4, 4), (1, 2, 4, 4), (1, 3, 3, 2), (4,), (4,))
    )

    def function(*args):
        return dynamic_involution2d(*args[:3], padding=1, scale=args[3], shift=args[4])

    assert torch.autograd.gradcheck(function, (x, reduced, span, scale, shift), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (x, reduced, span, scale, shift))


@pytest.mark.parametrize("wanted", range(5), ids=["input", "reduced", "span", "scale", "shift"])
@pytest.mark.parametrize("relu", [False, True])
def test_each_derivative_alone(wanted, relu):
    sizes = (1, 4, 4, 4), (1, 2, 4, 4), (1, 3, 3, 2), (4,), (4,)
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=i == wanted) for i, size in enumerate(sizes)]

    def function(x, reduced, span, scale, shift):
        return dynamic_involution2d(x, reduced, span, padding=1, scale=scale, shift=shift, relu=relu)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("seed", range(20))
def test_derivatives_do_not_change_the_result(seed):
    args = problem(seed)
    expected = torch.ops.involution.dynamic_involution2d_affine(*args)
    leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
    assert torch.equal(torch.ops.involution.dynamic_involution2d_affine(*leaves), expected)


@pytest.mark.parametrize("relu", [False, True])
def test_what_is_saved_for_backward(relu):
    sizes = (1, 4, 4, 4), (1, 2, 4, 4), (1, 3, 3, 2), (4,), (4,)
    x, reduced, span, scale, shift = (torch.randn(size, requires_grad=True) for size in sizes)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        out = dynamic_involution2d(x, reduced, span, padding=1, scale=scale, shift=shift, relu=relu)
    kept = [x, reduced, span, scale, *([out] if relu else [])]
    assert sorted(saved) == sorted(t.data_ptr() for t in kept)


def test_what_does_not_fit_is_named():
    args = torch.randn(1, 4, 4, 4), torch.randn(1, 2, 4, 4), torch.randn(1, 3, 3, 2)
    with pytest.raises(ValueError, match=r"scale must be \[C\] = \[4\]"):
        dynamic_involution2d(*args, padding=1, scale=torch.ones(3))
    with pytest.raises(TypeError, match="input and shift must have one dtype"):
        dynamic_involution2d(*args, padding=1, shift=torch.ones(4).double())
