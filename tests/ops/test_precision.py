"""Rounding: against float64 truth each dtype may err a small multiple of what eager PyTorch itself errs."""

import pytest
import torch
from forms import BY_NAME, unfold_form
from tolerances import ROUNDOFF, TIMES_EAGER

from involution import dynamic_involution2d, involution2d
from involution.ops import reference

dtypes = pytest.mark.parametrize("dtype", TIMES_EAGER, ids=lambda dtype: str(dtype).removeprefix("torch."))


def error(value, truth):
    return ((value.double() - truth).norm() / truth.norm()).item()


def value_and_gradients(form, leaves, grad):
    out = form(*leaves)
    return out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))


@dtypes
@pytest.mark.parametrize("name", ["k3-same", "k7-same", "k7-stride2-odd", "k11", "group-width-64", "k1x6-mixed"])
def test_error_is_a_small_multiple_of_that_of_eager(name, dtype):
    case = BY_NAME[name]
    leaves = [t.to(dtype).requires_grad_() for t in case.tensors()]
    truth_leaves = [t.detach().double().requires_grad_() for t in leaves]
    grad = torch.randn(*case.input_size[:2], *case.output_size).to(dtype)

    def ours(x, w):
        return involution2d(x, w, None, case.stride, case.padding, case.dilation)

    def eager(x, w):
        return unfold_form(x, w, *case.geometry)

    truth = value_and_gradients(eager, truth_leaves, grad.double())
    for mine, theirs, true in zip(
        value_and_gradients(ours, leaves, grad), value_and_gradients(eager, leaves, grad), truth, strict=True
    ):
        assert mine.dtype == dtype
        assert error(mine, true) <= TIMES_EAGER[dtype] * error(theirs, true) + ROUNDOFF[dtype]


@dtypes
@pytest.mark.parametrize("epilogue", [False, True], ids=["alone", "scale and shift"])
def test_dynamic_form(dtype, epilogue):
    sizes = [(2, 16, 9, 9), (2, 4, 9, 9), (1, 7, 7, 4), (1, 7, 7), *[(16,)] * 2 * epilogue]
    leaves = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
    grad = torch.randn(2, 16, 9, 9).to(dtype)

    def ours(x, reduced, span_weight, span_bias, scale=None, shift=None):
        return dynamic_involution2d(x, reduced, span_weight, span_bias, padding=3, scale=scale, shift=shift)

    def eager(x, reduced, span_weight, span_bias, scale=None, shift=None):
        weight = reference.span(reduced, span_weight, span_bias)
        out = unfold_form(x, weight, (1, 1), (3, 3), (1, 1))
        return out if scale is None else out * scale[:, None, None] + shift[:, None, None]

    truth = value_and_gradients(eager, [t.detach().double().requires_grad_() for t in leaves], grad.double())
    for mine, theirs, true in zip(
        value_and_gradients(ours, leaves, grad), value_and_gradients(eager, leaves, grad), truth, strict=True
    ):
        assert mine.dtype == dtype
        assert error(mine, true) <= TIMES_EAGER[dtype] * error(theirs, true) + ROUNDOFF[dtype]


# one term of 1 and 120 small ones: added in the half type, each small one is lost
def terms(dtype):
    values = torch.full((121,), ROUNDOFF[dtype] / 2, dtype=dtype)
    values[0] = 1
    added_in_half = torch.zeros((), dtype=dtype)
    for value in values:
        added_in_half = added_in_half + value
    assert added_in_half == 1
    total = values.double().sum().to(dtype)
    assert total > 1
    return values, total


half_types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@half_types
@pytest.mark.parametrize("form", ["operator", "composite"])
def test_forward_accumulates_in_float32(form, dtype):
    values, total = terms(dtype)
    x, w = torch.ones(1, 1, 11, 11, dtype=dtype), values.view(1, 1, 11, 11, 1, 1)
    out = involution2d(x, w) if form == "operator" else reference.composite(x, w, (1, 1), (0, 0), (1, 1))
    assert out.item() == total


@half_types
def test_gradient_of_input_accumulates_in_float32(dtype):
    # one pixel, read by 121 windows
    values, total = terms(dtype)
    x = torch.ones(1, 1, 1, 1, dtype=dtype, requires_grad=True)
    out = involution2d(x, torch.ones(1, 1, 11, 11, 11, 11, dtype=dtype), padding=10)
    (grad,) = torch.autograd.grad(out, x, values.view(1, 1, 11, 11))
    assert grad.item() == total


@half_types
def test_gradient_of_map_accumulates_in_float32(dtype):
    # one tap, shared by 121 channels
    values, total = terms(dtype)
    w = torch.ones(1, 1, 1, 1, 1, 1, dtype=dtype, requires_grad=True)
    out = involution2d(torch.ones(1, 121, 1, 1, dtype=dtype), w)
    (grad,) = torch.autograd.grad(out, w, values.view(1, 121, 1, 1))
    assert grad.item() == total


@half_types
def test_gradient_of_scale_sums_exact_products(dtype):
    # (1 + e)(1 + e) − (1 + 2e) = e²: nothing, where the first is rounded
    e = torch.finfo(dtype).eps
    x, grad = (torch.tensor(v, dtype=dtype).view(1, 1, 1, 2) for v in ([1 + e, 1 + 2 * e], [1 + e, -1]))
    one, scale = torch.ones(1, 1, 1, 1, dtype=dtype), torch.ones(1, dtype=dtype, requires_grad=True)
    out = dynamic_involution2d(x, one.expand_as(x), one, scale=scale)
    assert torch.autograd.grad(out, scale, grad)[0].item() == e**2
