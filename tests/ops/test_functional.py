"""The public functions: padding, dimensions, memory format, bias, empty and huge tensors."""

import pytest
import torch
import torch.nn.functional as F
from forms import CASES, INPUT_LAYOUTS, MAP_LAYOUTS, unfold_form
from tolerances import EXACT
from torch.testing import assert_close

from involution import dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops import reference


def randn(*size):
    return torch.randn(*size, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_and_gradients(case, deterministic):
    x, w = case.tensors(requires_grad=True)
    out = involution2d(x, w, None, case.stride, case.padding, case.dilation)
    expected = unfold_form(x, w, *case.geometry)
    assert_close(out, expected, **EXACT)
    grad = torch.randn_like(expected)
    assert_close(torch.autograd.grad(out, (x, w), grad), torch.autograd.grad(expected, (x, w), grad), **EXACT)


@pytest.mark.parametrize("map_layout", MAP_LAYOUTS)
@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_layouts(layout, map_layout, deterministic):
    x, w = INPUT_LAYOUTS[layout](randn(2, 8, 7, 6)), MAP_LAYOUTS[map_layout](randn(2, 2, 3, 3, 4, 3))
    plain = [t.clone().requires_grad_() for t in (x, w)]
    x, w = x.requires_grad_(), w.requires_grad_()
    out, expected = involution2d(x, w, stride=2, padding=1), unfold_form(*plain, (2, 2), (1, 1), (1, 1))
    assert_close(out, expected, **EXACT)
    grad = INPUT_LAYOUTS[layout](randn(*out.shape))
    assert_close(torch.autograd.grad(out, (x, w), grad), torch.autograd.grad(expected, plain, grad), **EXACT)


def test_symbolic_tracer_records_the_call_whole():
    class Applied(torch.nn.Module):
        def forward(self, x, w):
            return involution2d(x, weight=w, padding="same") + involution2d(x, w, padding=1)

    x, w = randn(1, 4, 5, 6), randn(1, 2, 3, 3, 5, 6)
    graph = torch.fx.symbolic_trace(Applied())
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"].count(involution2d) == 2
    assert_close(graph(x, w), Applied()(x, w))


def test_tensor_subclass_stays():
    class Tagged(torch.Tensor):
        pass

    x, w = randn(1, 4, 5, 6), randn(1, 2, 3, 3, 5, 6)
    out = involution2d(x.as_subclass(Tagged), w, padding=1)
    assert type(out) is Tagged
    assert_close(out.as_subclass(torch.Tensor), involution2d(x, w, padding=1))


@pytest.mark.parametrize("size", [1, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
def test_same_padding_gives_ceil_of_size_by_stride(kernel, stride, dilation, size):
    outputs = -(-size // stride)
    x, w = randn(1, 2, size, size + 1), randn(1, 1, kernel, kernel, outputs, -(-(size + 1) // stride))
    out = involution2d(x, w, stride=stride, padding="same", dilation=dilation)
    # an even kernel has its extra tap on the right
    leading = dilation * (kernel - 1) // 2
    assert_close(out, reference.loop(x, w, [stride] * 2, [leading] * 2, [dilation] * 2), **EXACT)


@pytest.mark.parametrize("padding", [0, 2, (1, 2), ((1, 2), (0, 3)), (1, (0, 3)), [[1, 2], 3]], ids=str)
def test_every_way_to_write_a_padding(padding):
    items = (padding,) * 2 if isinstance(padding, int) else padding
    (top, bottom), (left, right) = ((p, p) if isinstance(p, int) else p for p in items)
    x = randn(2, 4, 6, 5)
    padded = F.pad(x, (left, right, top, bottom))
    w = randn(2, 2, 3, 2, padded.shape[2] - 2, padded.shape[3] - 1)
    assert_close(involution2d(x, w, padding=padding), involution2d(padded, w), **EXACT)


def test_stride_and_dilation_per_dimension():
    x, w = randn(2, 4, 9, 8), randn(2, 2, 3, 2, 3, 3)
    out = involution2d(x, w, stride=(3, 2), padding=(1, 0), dilation=(1, 3))
    assert_close(out, reference.loop(x, w, (3, 2), (1, 0), (1, 3)), **EXACT)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_causal_involution_does_not_see_the_future(dilation):
    x, w = randn(2, 4, 20), randn(2, 2, 5, 20)
    causal = {"padding": (4 * dilation, 0), "dilation": dilation}
    out = involution1d(x, w, **causal)
    changed = x.clone()
    changed[..., 12] += 1
    moved = (involution1d(changed, w, **causal) != out).any(1).any(0)
    assert moved.nonzero().flatten().tolist() == [p for p in range(12, 20) if (p - 12) % dilation == 0][:5]


@pytest.mark.parametrize("padding", [0, 3, (4, 0), (0, 2), ((4, 0),), "same"], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_1d_is_2d_with_one_row(padding, stride):
    x = randn(2, 6, 11)
    sides = padding if isinstance(padding, tuple) and isinstance(padding[0], int) else None
    padding_2d = padding if padding == "same" else (0, sides or (padding[0] if isinstance(padding, tuple) else padding))
    total = 4 if padding == "same" else sum(padding_2d[1]) if isinstance(padding_2d[1], tuple) else 2 * padding
    outputs = -(-11 // stride) if padding == "same" else (11 + total - 5) // stride + 1
    w, bias = randn(2, 3, 5, outputs), randn(6)
    expected = involution2d(x[:, :, None], w[:, :, None, :, None], bias, (1, stride), padding_2d)
    out = involution1d(x, w, bias, stride, padding)
    assert out.shape == (2, 6, outputs)
    assert_close(out, expected[:, :, 0], **EXACT)


@pytest.mark.parametrize("padding", [1, ((2, 0), 1, (0, 2)), "same"], ids=["1", "per-side", "same"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), ((1, 2, 3), (2, 1, 1))], ids=str)
def test_3d_is_a_loop_of_2d_over_depth_taps(stride, dilation, padding, deterministic):
    x = randn(2, 4, 5, 6, 7).requires_grad_()
    kernel = (3, 2, 3)
    strides = (stride,) * 3 if isinstance(stride, int) else stride
    dilations = (dilation,) * 3 if isinstance(dilation, int) else dilation
    if padding == "same":
        sizes = [-(-n // s) for n, s in zip((5, 6, 7), strides, strict=True)]
        leading = [d * (k - 1) // 2 for d, k in zip(dilations, kernel, strict=True)]
    else:
        sides = (((1, 1),) * 3) if padding == 1 else ((2, 0), (1, 1), (0, 2))
        leading = [a for a, _ in sides]
        sizes = [
            (n + a + b - d * (k - 1) - 1) // s + 1
            for n, (a, b), d, k, s in zip((5, 6, 7), sides, dilations, kernel, strides, strict=True)
        ]
    w = randn(2, 2, *kernel, *sizes).requires_grad_()
    out = involution3d(x, w, None, stride, padding, dilation)
    slices = []
    for i in range(sizes[0]):
        total = randn(2, 4, *sizes[1:]).zero_()
        for u in range(kernel[0]):
            depth = i * strides[0] - leading[0] + u * dilations[0]
            if 0 <= depth < 5:
                taps = w[:, :, u, :, :, i]
                total = total + unfold_form(x[:, :, depth], taps, strides[1:], leading[1:], dilations[1:])
        slices.append(total)
    expected = torch.stack(slices, 2)
    assert_close(out, expected, **EXACT)
    grad = torch.randn_like(out)
    assert_close(torch.autograd.grad(out, (x, w), grad), torch.autograd.grad(expected, (x, w), grad), **EXACT)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_dynamic_form_is_the_map_applied(groups, deterministic):
    leaves = randn(2, 8, 7, 6), randn(2, 3, 4, 3), randn(groups, 3, 4, 3), randn(groups, 3, 4)
    for leaf in leaves:
        leaf.requires_grad_()
    x, reduced, span_weight, span_bias = leaves
    out = dynamic_involution2d(*leaves, stride=2, padding="same")
    weight = torch.einsum("guvr,nrij->nguvij", span_weight, reduced) + span_bias[None, ..., None, None]
    expected = unfold_form(x, weight, (2, 2), (1, 1), (1, 1))
    assert_close(out, expected, **EXACT)
    grad = torch.randn_like(out)
    assert_close(torch.autograd.grad(out, leaves, grad), torch.autograd.grad(expected, leaves, grad), **EXACT)
    without_bias = dynamic_involution2d(x, reduced, span_weight, stride=2, padding="same")
    expected = unfold_form(x, weight - span_bias[None, ..., None, None], (2, 2), (1, 1), (1, 1))
    assert_close(without_bias, expected, **EXACT)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_bias_is_added_to_each_channel(dims):
    function = {1: involution1d, 2: involution2d, 3: involution3d}[dims]
    x, w = randn(2, 4, *[5] * dims), randn(2, 2, *[3] * dims, *[3] * dims)
    bias = torch.arange(4.0, dtype=torch.float64).requires_grad_()
    out = function(x, w, bias)
    assert_close(out - function(x, w), bias.view(-1, *[1] * dims).expand_as(out))
    out.sum().backward()
    assert_close(bias.grad, torch.full((4,), 2.0 * 3**dims, dtype=torch.float64))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
def test_output_has_the_memory_format_of_the_input(dims, channels_last, stride):
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
    function = {2: involution2d, 3: involution3d}[dims]
    outputs = [4, 4, 4][:dims] if stride == 1 else [2] * dims
    w = torch.randn(2, 1, *[3] * dims, *outputs).requires_grad_()
    x = torch.randn(2, 32, *[4] * dims).to(memory_format=memory_format).requires_grad_()
    out = function(x, w, stride=stride, padding="same")
    assert out.is_contiguous(memory_format=memory_format)
    grad_x, grad_w = torch.autograd.grad(out, (x, w), torch.randn_like(out))
    assert grad_x.is_contiguous(memory_format=memory_format)
    # the gradient of the map as its consumer, the generator's convolution, has its activations
    assert grad_w.flatten(1, 1 + dims).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (involution1d, [(0, 4, 9), (0, 2, 3, 9)]),
        (involution2d, [(0, 4, 5, 6), (0, 2, 3, 3, 5, 6)]),
        (involution3d, [(0, 4, 3, 4, 5), (0, 2, 3, 3, 3, 3, 4, 5)]),
        (dynamic_involution2d, [(0, 4, 5, 6), (0, 3, 5, 6), (2, 3, 3, 3)]),
    ],
    ids=["1d", "2d", "3d", "dynamic"],
)
def test_empty_batch(function, sizes, deterministic):
    tensors = [torch.randn(size, requires_grad=True) for size in sizes]
    out = function(*tensors, padding="same")
    assert out.shape == sizes[0]
    for tensor, grad in zip(tensors, torch.autograd.grad(out.sum(), tensors), strict=True):
        assert grad.shape == tensor.shape
        # only the span weight has elements: nothing was summed into it
        assert not grad.any()


def test_empty_image():
    out = involution2d(torch.randn(2, 4, 0, 3), torch.randn(2, 1, 3, 3, 0, 3), padding="same")
    assert out.shape == (2, 4, 0, 3)


def test_nothing_is_left_unwritten_where_no_window_reads(deterministic):
    # stride 3, kernel 1: two thirds of the input have no part in the output
    x, w = randn(2, 4, 7, 8).requires_grad_(), randn(2, 2, 1, 1, 3, 3)
    involution2d(x, w, stride=3).sum().backward()
    read = torch.zeros(7, 8, dtype=torch.bool)
    read[::3, ::3] = True
    assert not x.grad[..., ~read].any()
    assert x.grad[..., read].all()


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_more_than_two_to_the_31_elements_on_meta(channels_last):
    x = torch.empty(3, 64, 8192, 8192, device="meta", requires_grad=True)
    if channels_last:
        x = torch.empty(3, 64, 8192, 8192, device="meta", memory_format=torch.channels_last, requires_grad=True)
    w = torch.empty(3, 4, 7, 7, 4096, 4096, device="meta", requires_grad=True)
    out = involution2d(x, w, stride=2, padding=3)
    assert out.shape == (3, 64, 4096, 4096)
    assert out.numel() > 2**31
    assert out.stride() == ((64 * 2**24, 1, 64 * 2**12, 64) if channels_last else (64 * 2**24, 2**24, 2**12, 1))
    grad_x, grad_w = torch.autograd.grad(out.sum(), (x, w))
    assert grad_x.shape == x.shape
    assert grad_w.shape == w.shape
    assert grad_w.numel() > 2**33
