"""The plain forms against each other: the literal loop, F.unfold, shift-and-accumulate, composite."""

import pytest
import torch
from forms import CASES, INPUT_LAYOUTS, MAP_LAYOUTS, SOME, Case, unfold_form
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EXACT
from torch.testing import assert_close

from involution.ops import reference

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cases
def test_unfold_form_is_the_loop(case):
    x, w = case.tensors()
    assert_close(unfold_form(x, w, *case.geometry), reference.loop(x, w, *case.geometry), **EXACT)


def test_loop_is_the_formula():
    case = Case("formula", (2, 4, 4, 5), (2, 3), 2, (2, 1), ((1, 0), (2, 1)), (1, 2))
    x, w = case.tensors()
    out = reference.loop(x, w, *case.geometry)
    for n, c, i, j in [(0, 0, 0, 0), (1, 3, 1, 2), (0, 2, 1, 3), (1, 1, 0, 1)]:
        total = 0.0
        for u in range(2):
            for v in range(3):
                row, column = 2 * i - 1 + u, j - 2 + 2 * v
                if 0 <= row < 4 and 0 <= column < 5:
                    total += (w[n, c // 2, u, v, i, j] * x[n, c, row, column]).item()
        assert out[n, c, i, j].item() == pytest.approx(total, rel=1e-12)


@cases
@pytest.mark.parametrize("form", [reference.shift_forward, reference.composite], ids=["shift", "composite"])
def test_forward_is_the_loop(case, form, deterministic):
    x, w = case.tensors()
    assert_close(form(x, w, *case.geometry), reference.loop(x, w, *case.geometry), **EXACT)


@cases
def test_gradients_are_those_of_the_loop_and_of_unfold(case, deterministic):
    x, w = case.tensors(requires_grad=True)
    grad = torch.randn(*x.shape[:2], *case.output_size, dtype=x.dtype)
    by_unfold = torch.autograd.grad(unfold_form(x, w, *case.geometry), (x, w), grad)
    by_loop = torch.autograd.grad(reference.loop(x, w, *case.geometry), (x, w), grad)
    with torch.no_grad():
        grad_x = reference.shift_grad_input(grad, w, x.shape[2:], *case.geometry)
        grad_w = reference.shift_grad_weight(grad, x, case.groups, case.kernel, *case.geometry)
    for expected in (by_unfold, by_loop):
        assert_close((grad_x, grad_w), expected, **EXACT)


@pytest.mark.parametrize("map_layout", MAP_LAYOUTS)
@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_strides_change_nothing(case, layout, map_layout, deterministic):
    x, w = case.tensors()
    x, w = INPUT_LAYOUTS[layout](x), MAP_LAYOUTS[map_layout](w)
    grad = INPUT_LAYOUTS[layout](torch.randn(*x.shape[:2], *case.output_size, dtype=x.dtype))
    kept = x.clone(), w.clone(), grad.clone()
    plain = [t.clone().requires_grad_() for t in (x, w)]
    expected = unfold_form(*plain, *case.geometry)
    assert_close(reference.shift_forward(x, w, *case.geometry), expected, **EXACT)
    expected_x, expected_w = torch.autograd.grad(expected, plain, grad.contiguous())
    assert_close(reference.shift_grad_input(grad, w, x.shape[2:], *case.geometry), expected_x, **EXACT)
    assert_close(reference.shift_grad_weight(grad, x, *w.shape[1:2], case.kernel, *case.geometry), expected_w, **EXACT)
    assert_close((x, w, grad), kept, rtol=0, atol=0, msg="an argument was written to")


# wide groups on short or strided rows take a path of their own
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [15, 16])
@pytest.mark.parametrize("groups", [1, 2, 64])
def test_wide_groups(groups, width, stride, channels_last, deterministic):
    case = Case("wide", (2, 64, 3, width), (3, 3), groups, (stride, stride), ((1, 1), (1, 1)))
    x, w = case.tensors()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x, w = x.requires_grad_(), w.requires_grad_()
    expected = unfold_form(x, w, *case.geometry)
    grad = torch.randn_like(expected)
    expected_x, expected_w = torch.autograd.grad(expected, (x, w), grad)
    with torch.no_grad():
        assert_close(reference.shift_forward(x, w, *case.geometry), expected, **EXACT)
        assert_close(reference.shift_grad_input(grad, w, x.shape[2:], *case.geometry), expected_x, **EXACT)
        assert_close(reference.shift_grad_weight(grad, x, groups, (3, 3), *case.geometry), expected_w, **EXACT)


@st.composite
def geometries(draw):
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, top), st.integers(1, top))) for top in (11, 3, 3))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2))
    # at least one window fits
    size = [
        max(1, d * (k - 1) + 1 - a - b) + draw(st.integers(0, 5))
        for k, d, (a, b) in zip(kernel, dilation, padding, strict=True)
    ]
    groups, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    batch = draw(st.sampled_from([0, 1, 3]))
    return Case("drawn", (batch, groups * width, *size), kernel, groups, stride, padding, dilation)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries())
def test_any_geometry(case):
    x, w = case.tensors(requires_grad=True)
    expected = unfold_form(x, w, *case.geometry)
    grad = torch.randn_like(expected)
    expected_x, expected_w = torch.autograd.grad(expected, (x, w), grad)
    with torch.no_grad():
        assert_close(reference.shift_forward(x, w, *case.geometry), expected, **EXACT)
        assert_close(reference.shift_grad_input(grad, w, x.shape[2:], *case.geometry), expected_x, **EXACT)
        assert_close(
            reference.shift_grad_weight(grad, x, case.groups, case.kernel, *case.geometry), expected_w, **EXACT
        )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 40), st.integers(1, 7), st.integers(0, 9), st.integers(1, 2**30), st.integers(0, 2**30), st.data()
)
def test_reads_are_those_of_the_formula(size, kernel, outputs, stride, padding, data):
    stride, padding, dilation = (data.draw(st.sampled_from([n, n % 7 + 1])) for n in (stride, padding, stride // 3 + 1))
    found = set()
    for read in reference.reads([size], [kernel], [outputs], [stride], [padding], [dilation]):
        positions = range(outputs)[read.output[1]], range(size)[read.input[1]]
        assert len(positions[0]) == len(positions[1]) > 0
        found |= {(read.tap, i, x) for i, x in zip(*positions, strict=True)}
    wanted = {(v, i, i * stride - padding + v * dilation) for v in range(kernel) for i in range(outputs)}
    assert found == {(v, i, x) for v, i, x in wanted if 0 <= x < size}


def test_span_is_the_linear_map_of_the_reduced_features():
    reduced = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    span_weight, span_bias = torch.randn(2, 3, 2, 3, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)
    expected = torch.einsum("guvr,nrij->nguvij", span_weight, reduced)
    assert_close(reference.span(reduced, span_weight, None), expected, **EXACT)
    expected = expected + span_bias[None, ..., None, None]
    assert_close(reference.span(reduced, span_weight, span_bias), expected, **EXACT)
