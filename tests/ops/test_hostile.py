"""What used to crash, hang or pass in silence: empty images, steps beyond any image, odd types, freed memory."""

import re
import time

import numpy as np
import pytest
import torch
from tolerances import assert_near

from involution import Involution2d, dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops import reference

CHANNELS_LAST = torch.channels_last


def fused(batch=2, size=(0, 6), channels=32, groups=2, dtype=torch.float32, layout=torch.contiguous_format):
    x = torch.randn(batch, channels, *size, dtype=dtype).contiguous(memory_format=layout)
    reduced = torch.randn(batch, 4, *size, dtype=dtype).contiguous(memory_format=layout)
    span, bias = torch.randn(groups, 3, 3, 4, dtype=dtype), torch.randn(groups, 3, 3, dtype=dtype)
    return tuple(t.requires_grad_() for t in (x, reduced, span, bias))


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("size", [(0, 6), (6, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 2, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_empty_image_has_zero_gradients(dtype, batch, size, layout, deterministic):
    leaves = fused(batch, size, dtype=dtype, layout=layout)
    out = dynamic_involution2d(*leaves, padding="same")
    assert out.shape == leaves[0].shape
    for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert grad.shape == leaf.shape
        assert not grad.any()
    weight = torch.randn(batch, 2, 3, 3, *size, dtype=dtype, requires_grad=True)
    out = involution2d(leaves[0], weight, padding="same")
    assert [g.shape for g in torch.autograd.grad(out.sum(), (leaves[0], weight))] == [leaves[0].shape, weight.shape]


def test_an_empty_output_leaves_the_input_alone(deterministic):
    # no public call gets here: windows must fit
    x, geometry = torch.randn(2, 32, 5, 6), ([1, 1], [1, 1], [1, 1])
    reduced, span, grad = torch.randn(2, 4, 0, 6), torch.randn(2, 3, 3, 4), torch.randn(2, 32, 0, 6)
    before = x.clone()
    ops = torch.ops.involution
    grads = ops.dynamic_involution2d_backward(grad, x, reduced, span, None, *geometry, [True, True, True, True])
    assert [g.shape for g in grads] == [x.shape, reduced.shape, span.shape, span.shape[:3]]
    assert not any(g.any() for g in grads)
    assert torch.equal(x, before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("far", [2**10, 2**14, 2**16, 2**24, 2**28, 2**31 - 1], ids=lambda n: f"{n:.3g}")
@pytest.mark.parametrize("what", ["stride", "dilation", "padding"])
def test_cost_is_that_of_the_output(what, far, layout):
    size, groups = (9, 20), 2
    options = {"stride": 1, "padding": "same", "dilation": 1, what: far}
    if what == "padding":
        # windows before, in and after the image
        options["stride"] = far
        outputs, leading = tuple((n + 2 * far - 3) // far + 1 for n in size), far
    else:
        outputs, leading = tuple(-(-n // options["stride"]) for n in size), options["dilation"]
    x = torch.randn(2, 32, *size).contiguous(memory_format=layout).requires_grad_()
    w = torch.randn(2, groups, 3, 3, *outputs, requires_grad=True)
    leaves = [x, *(torch.randn(s, requires_grad=True) for s in ((2, 4, *outputs), (groups, 3, 3, 4)))]
    start = time.perf_counter()
    out = involution2d(x, w, **options)
    grads = torch.autograd.grad(out.sum(), (x, w))
    torch.autograd.grad(dynamic_involution2d(*leaves, **options).sum(), leaves)
    # was seconds to minutes; other work on this machine must not matter
    assert time.perf_counter() - start < 1
    exact = [t.detach().double().requires_grad_() for t in (x, w)]
    geometry = [[options["stride"]] * 2, [leading] * 2, [options["dilation"]] * 2]
    truth = reference.loop(*exact, *geometry)
    assert_near(out.detach(), truth.detach())
    for one, other in zip(grads, torch.autograd.grad(truth.sum(), exact), strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("function", [reference.shift_forward, reference.composite])
def test_the_plain_forms_cost_what_the_output_costs(function):
    x, w = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 3, 3, 5, 6)
    geometry = [1, 1], [2**30] * 2, [2**30] * 2
    assert_near(function(x, w, *geometry), reference.loop(x.double(), w.double(), *geometry))


@pytest.mark.parametrize(("dims", "function"), [(1, involution1d), (2, involution2d), (3, involution3d)])
def test_numpy_counts_as_python(dims, function):
    x, w = torch.randn(1, 4, *[7] * dims), torch.randn(1, 2, *[3] * dims, *[4] * dims)
    expected = function(x, w, None, 2, 1, 1)
    for one in (np.int64(1), np.uint8(1), np.array(1), torch.tensor(1)):
        assert torch.equal(function(x, w, None, one + 1, one, one), expected)
    assert torch.equal(function(x, w, None, np.full(dims, 2), np.ones(dims, int), (np.int32(1),) * dims), expected)
    pairs = np.ones((dims, 2), dtype=np.int16)
    assert torch.equal(function(x, w, None, [2] * dims, pairs, 1), expected)
    assert torch.equal(function(x, w, None, 2, [tuple(pair) for pair in pairs], 1), expected)


def test_numpy_counts_as_python_for_modules():
    module = Involution2d(16, np.int64(3), np.array([2, 2]), padding=np.array([1, 1]), dilation=(np.int8(1), 1))
    assert (module.kernel_size, module.stride, module.padding) == ((3, 3), (2, 2), ((1, 1), (1, 1)))
    assert all(type(n) is int for n in (*module.kernel_size, *module.stride, *module.dilation))
    assert module(torch.randn(1, 16, 5, 5)).shape == (1, 16, 3, 3)


X, W = torch.randn(1, 4, 5, 5), torch.randn(1, 2, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stride": b"\x01\x01"}, TypeError, r"stride must be an int or a tuple of 2 ints; got b'\x01\x01'"),
        ({"stride": bytearray(2)}, TypeError, "stride must be an int or a tuple of 2 ints; got bytearray"),
        ({"stride": (True, True)}, TypeError, "stride must be an int or a tuple of 2 ints; got (True, True)"),
        ({"stride": np.bool_(True)}, TypeError, "stride must be an int or a tuple of 2 ints; got np.True_"),
        ({"stride": np.float64(1)}, TypeError, "stride must be an int or a tuple of 2 ints; got np.float64(1.0)"),
        ({"stride": np.array([1.0, 1])}, TypeError, "stride must be an int or a tuple of 2 ints; got array("),
        ({"stride": np.array([[1], [1]])}, TypeError, "stride must be an int or a tuple of 2 ints; got array("),
        ({"stride": torch.tensor(1.0)}, TypeError, "stride must be an int or a tuple of 2 ints; got tensor(1.)"),
        ({"stride": torch.tensor([1, 1])}, TypeError, "stride must be an int or a tuple of 2 ints; got tensor("),
        ({"stride": {1, 2}}, TypeError, "stride must be an int or a tuple of 2 ints; got {1, 2}"),
        ({"stride": 2**31}, ValueError, "stride must be below 2**31; got 2147483648"),
        ({"dilation": (1, 2**70)}, ValueError, "dilation must be below 2**31; got (1, "),
        ({"padding": 10**30}, ValueError, "padding must be below 2**31; got 1000"),
        ({"padding": ((1, 2**31), 1)}, ValueError, "padding must be below 2**31; got ((1, "),
        ({"padding": b"same"}, TypeError, "got b'same'"),
        ({"padding": (b"ab", 1)}, ValueError, "got (b'ab', 1)"),
        ({"padding": np.array([-1, 0])}, ValueError, "padding must not be negative; got array([-1,  0])"),
        ({"padding": False}, TypeError, "got False"),
    ],
    ids=str,
)
def test_numbers_that_are_none(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        involution2d(X, W, **options)


def nested():
    return torch.nested.nested_tensor([torch.randn(4, 5, 5), torch.randn(4, 5, 5)])


UNUSUAL = {
    "sparse_coo": lambda: X.to_sparse(),
    "sparse_csr": lambda: torch.randn(5, 5).to_sparse_csr(),
    "mkldnn": lambda: X.to_mkldnn(),
    "nested": nested,
}


# PyTorch's own: nested and CSR tensors are prototypes
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning", "ignore:Sparse.*:UserWarning")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_are_not_strided(kind):
    unusual = UNUSUAL[kind]()
    message = f"must be a dense, strided tensor; got a {kind.removeprefix('_')} one. Convert it first"
    for arguments in ((unusual, W), (X, unusual), (X, W, unusual)):
        with pytest.raises(TypeError, match=re.escape(message)):
            involution2d(*arguments)
    others = torch.randn(1, 4, 3, 3), torch.randn(2, 3, 3, 4)
    for name in ("span_bias", "scale", "shift"):
        with pytest.raises(TypeError, match=f"{name} {re.escape(message)}"):
            dynamic_involution2d(X, *others, **{name: unusual})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_of_other_types():
    quantised = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
    for unusual in (quantised, X.bool(), X.to(torch.float8_e4m3fn)):
        with pytest.raises(TypeError, match="input must be float16, bfloat16, float32 or float64; got torch"):
            involution2d(unusual, W)
    with torch.autocast("cpu"), pytest.raises(TypeError, match=r"input and bias must have one dtype.*int64"):
        involution2d(X, W, torch.ones(4, dtype=torch.int64))
    arguments = X, torch.randn(1, 4, 3, 3), torch.randn(2, 3, 3, 4)
    with pytest.raises(TypeError, match="scale must be a tensor or None; got float"):
        dynamic_involution2d(*arguments, scale=1.0)
    with pytest.raises(ValueError, match=r"input and shift must be on one device; got cpu and meta"):
        dynamic_involution2d(*arguments, shift=torch.ones(4, device="meta"))


@pytest.mark.parametrize("bytes_left", [0, 64])
@pytest.mark.parametrize("which", ["input", "reduced", "span_weight", "span_bias", "scale"])
def test_memory_that_was_given_back_is_not_read(which, bytes_left):
    names = "input", "reduced", "span_weight", "span_bias"
    tensors = dict(zip(names, (t.detach() for t in fused(size=(5, 6))), strict=True), scale=torch.randn(32))
    tensors[which].untyped_storage().resize_(min(bytes_left, tensors[which].nbytes // 2 if bytes_left else 0))
    with pytest.raises(RuntimeError, match="data is not allocated"):
        dynamic_involution2d(**tensors, padding=1)


def test_memory_that_was_given_back_is_not_read_by_the_map_either():
    x, w = torch.randn(1, 16, 5, 5), torch.randn(1, 1, 3, 3, 5, 5)
    w.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="data is not allocated"):
        involution2d(x, w, padding=1)
