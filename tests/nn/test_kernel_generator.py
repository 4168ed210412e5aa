"""Where the kernels come from: which input positions influence the kernel of which output."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from involution import Involution1d, Involution2d, Involution3d


def linear(cls, *args, **kwargs):
    """A module whose generator is pooling alone: one channel, weight 1, no norm or activation."""
    module = cls(1, *args, reduction_ratio=None, **kwargs).double()
    module.generator.span.weight.data.fill_(1)
    return module


def pooled(module, x):
    return module.generator(x).flatten(1, 1 + module.dims)[:, 0]


def influences(length, kernel, stride, padding, dilation):
    """Return for each output the input positions that change its kernel."""
    module = linear(Involution1d, kernel, stride, padding, dilation)
    response = pooled(module, torch.eye(length, dtype=torch.float64)[:, None])
    return [row.nonzero().flatten().tolist() for row in response.T]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["same", 0, 1, 3, (4, 0), (0, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_without_stride_the_kernel_comes_from_the_centre_of_its_window(kernel, padding, dilation):
    length, reach = 12, dilation * (kernel - 1)
    leading = reach // 2 if padding == "same" else padding[0] if isinstance(padding, tuple) else padding
    for i, positions in enumerate(influences(length, kernel, 1, padding, dilation)):
        # of two middle taps the left one; a centre outside the image sees its border
        centre = i - leading + reach // 2
        assert positions == [min(max(centre, 0), length - 1)]


@pytest.mark.parametrize("length", [11, 12, 13])
@pytest.mark.parametrize("padding", ["same", 0, 2, (4, 0)], ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
@pytest.mark.parametrize("stride", [2, 3])
def test_under_stride_it_comes_from_the_cell_at_the_centre(stride, kernel, padding, length):
    reach = kernel - 1
    leading = reach // 2 if padding == "same" else padding[0] if isinstance(padding, tuple) else padding
    for i, positions in enumerate(influences(length, kernel, stride, padding, 1)):
        first = i * stride - leading + reach // 2
        assert positions == sorted({min(max(p, 0), length - 1) for p in range(first, first + stride)})


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(7, 7), (7, 8), (8, 7), (5, 9), (1, 1)], ids=str)
def test_odd_sizes_at_stride_2_average_what_is_there(size, kernel):
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    expected = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)[:, 0]
    assert_close(pooled(linear(Involution2d, kernel, 2), x), expected)


@pytest.mark.parametrize("padding", ["same", "half"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_where_sizes_divide_it_is_plain_average_pooling(stride, padding):
    x = torch.randn(2, 1, 12, 24, dtype=torch.float64)
    module = linear(Involution2d, 7, stride, 3 if padding == "half" else padding)
    assert_close(pooled(module, x), F.avg_pool2d(x, stride)[:, 0])


def test_in_three_dimensions_and_with_a_stride_for_each():
    x = torch.randn(2, 1, 4, 6, 6, dtype=torch.float64)
    assert_close(pooled(linear(Involution3d, 3, (1, 2, 3)), x), F.avg_pool3d(x, (1, 2, 3))[:, 0])


def test_same_and_half_padding_agree_at_odd_sizes_too():
    x = torch.randn(2, 16, 7, 9)
    same, half = Involution2d(16, 7, 2).eval(), Involution2d(16, 7, 2, padding=3).eval()
    half.load_state_dict(same.state_dict())
    assert_close(same(x), half(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (2, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 1), (5, 3, 1), (5, 4, 2)]
)
def test_causal_module_does_not_see_the_future(kernel, stride, dilation):
    module = Involution1d(16, kernel, stride, padding=(dilation * (kernel - 1), 0), dilation=dilation).eval()
    x = torch.randn(2, 16, 24)
    changed = x.clone()
    changed[..., 12:] = torch.randn(2, 16, 12)
    out, after = module(x), module(changed)
    past = -(-12 // stride)
    assert torch.equal(out[..., :past], after[..., :past])
    assert not torch.equal(out[..., past:], after[..., past:])
