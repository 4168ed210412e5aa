"""Each wrong argument gets one error that names what was wanted and what was given."""

import re

import pytest
import torch

from involution import dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops.checks import per_dimension, per_side

X = torch.randn(2, 8, 7, 7)
W = torch.randn(2, 2, 3, 3, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(([1.0], W), TypeError, "input must be a tensor [N, C, H, W]; got list", id="input-type"),
        pytest.param(
            (X, None), TypeError, "weight must be a tensor [N, G, K_h, K_w, H_o, W_o]; got NoneType", id="weight-type"
        ),
        pytest.param((X, W, 1.0), TypeError, "bias must be a tensor or None; got float", id="bias-type"),
        pytest.param(
            (X[0], W), ValueError, "input must have 4 dimensions [N, C, H, W]; got [8, 7, 7]", id="input-dims"
        ),
        pytest.param(
            (X, W.flatten(1, 3)),
            ValueError,
            "weight must have 6 dimensions [N, G, K_h, K_w, H_o, W_o]; got [2, 18, 7, 7]",
            id="weight-dims",
        ),
        pytest.param(
            (X.int(), W),
            TypeError,
            "input must be float16, bfloat16, float32 or float64; got torch.int32",
            id="integers",
        ),
        pytest.param((X, W.to(torch.complex64)), TypeError, "got torch.complex64. Convert it first", id="complex"),
        pytest.param((X, W.double()), TypeError, "one dtype; got torch.float32 and torch.float64", id="dtypes"),
        pytest.param(
            (X, W, X.new_zeros(8).half()),
            TypeError,
            "input and bias must have one dtype; got torch.float32 and torch.float16",
            id="bias-dtype",
        ),
        pytest.param(
            (X, W.to("meta")), ValueError, "input and weight must be on one device; got cpu and meta", id="devices"
        ),
        pytest.param((X.to("meta"), W), ValueError, "got meta and cpu", id="devices-swapped"),
        pytest.param(
            (X, W, X.new_zeros(8).to("meta")), ValueError, "input and bias must be on one device", id="bias-device"
        ),
        pytest.param(
            (X, W.repeat(1, 2, 1, 1, 1, 1)[:, :3], None, 1, 1),
            ValueError,
            "input [2, 8, 7, 7] with C = 8 and weight [2, 3, 3, 3, 7, 7] with G = 3",
            id="groups",
        ),
        pytest.param((X, W[:, :0], None, 1, 1), ValueError, "with G = 0", id="no-group"),
        pytest.param(
            (X, W[:, :, :0], None, 1, 1), ValueError, "at least one tap; got weight [2, 2, 0, 3, 7, 7]", id="no-tap"
        ),
        pytest.param(
            (X, W),
            ValueError,
            "3, 5, 5] for input [2, 8, 7, 7], stride (1, 1), padding 0 and dilation (1, 1); got [2, 2, 3, 3, 7, 7]",
            id="map-without-padding",
        ),
        pytest.param(
            (X, W[..., :3, :3], None, 2, 1), ValueError, "= [2, 2, 3, 3, 4, 4] for", id="map-floored-at-odd-size"
        ),
        pytest.param(
            (X, W, None, 2, "same"),
            ValueError,
            "= [2, 2, 3, 3, 4, 4] for input [2, 8, 7, 7], stride (2, 2), padding 'same'",
            id="map-not-strided",
        ),
        pytest.param((X, W, None, 1, 1, 2), ValueError, "= [2, 2, 3, 3, 5, 5]", id="map-not-dilated"),
        pytest.param((X, W[:1], None, 1, 1), ValueError, "= [2, 2, 3, 3, 7, 7]", id="map-of-other-batch"),
        pytest.param((X, W, X.new_zeros(4), 1, 1), ValueError, "bias must be [C] = [8]; got [4]", id="bias-size"),
        pytest.param((X, W, X.new_zeros(8, 1), 1, 1), ValueError, "bias must be [C] = [8]; got [8, 1]", id="bias-dims"),
        pytest.param(
            (X[..., :2, :2], W[..., :1, :1]),
            ValueError,
            "window (3, 3) does not fit into an input of (2, 2)",
            id="window-larger",
        ),
        pytest.param(
            (X[..., :2, :2], W[..., :0, :0], None, 2),
            ValueError,
            "window (3, 3) does not fit",
            id="window-larger-strided",
        ),
        pytest.param(
            (X[..., :4, :4], W, None, 1, 0, 2),
            ValueError,
            "window (5, 5) does not fit into an input of (4, 4)",
            id="window-larger-dilated",
        ),
        pytest.param(
            (X[..., :0, :], W, None, 1, 1),
            ValueError,
            "window (3, 3) does not fit into an input of (0, 7)",
            id="empty-image",
        ),
        pytest.param((X, W, None, 0), ValueError, "stride must be at least 1; got 0", id="stride-0"),
        pytest.param((X, W, None, (1, -2)), ValueError, "stride must be at least 1; got (1, -2)", id="stride-negative"),
        pytest.param(
            (X, W, None, 1.0), TypeError, "stride must be an int or a tuple of 2 ints; got 1.0", id="stride-float"
        ),
        pytest.param(
            (X, W, None, True), TypeError, "stride must be an int or a tuple of 2 ints; got True", id="stride-bool"
        ),
        pytest.param(
            (X, W, None, (1, 1, 1)),
            ValueError,
            "stride must be an int or a tuple of 2 ints; got 3 of them",
            id="stride-length",
        ),
        pytest.param(
            (X, W, None, "2"), TypeError, "stride must be an int or a tuple of 2 ints; got '2'", id="stride-text"
        ),
        pytest.param((X, W, None, 1, 1, 0), ValueError, "dilation must be at least 1; got 0", id="dilation-0"),
        pytest.param(
            (X, W, None, 1, 1, None),
            TypeError,
            "dilation must be an int or a tuple of 2 ints; got None",
            id="dilation-none",
        ),
        pytest.param((X, W, None, 1, -1), ValueError, "padding must not be negative; got -1", id="padding-negative"),
        pytest.param(
            (X, W, None, 1, ((1, -1), 1)),
            ValueError,
            "padding must not be negative; got ((1, -1), 1)",
            id="padding-side-negative",
        ),
        pytest.param(
            (X, W, None, 1, (1, 1, 1)),
            ValueError,
            "a tuple of 2 items, each an int or a (leading, trailing) pair",
            id="padding-length",
        ),
        pytest.param((X, W, None, 1, ((1, 1, 1), 1)), ValueError, "got ((1, 1, 1), 1)", id="padding-of-three-sides"),
        pytest.param((X, W, None, 1, "valid"), TypeError, "or \"same\"; got 'valid'", id="padding-name"),
        pytest.param((X, W, None, 1, 1.5), TypeError, "padding must be an int, a tuple of 2 items", id="padding-float"),
        pytest.param((X, W, None, 1, None), TypeError, "padding must be an int, a tuple of 2 items", id="padding-none"),
    ],
)
def test_involution2d(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        involution2d(*arguments)


@pytest.mark.parametrize(
    ("function", "sizes", "message"),
    [
        (
            involution1d,
            [(2, 8, 7, 7), (2, 2, 3, 7)],
            "involution1d: input must have 3 dimensions [N, C, L]; got [2, 8, 7, 7]",
        ),
        (involution1d, [(2, 8, 9), (2, 2, 3, 8)], "weight must be [N, G, K_l, L_o] = [2, 2, 3, 7]"),
        (
            involution3d,
            [(2, 8, 7, 7), (2, 2, 3, 3, 7, 7)],
            "involution3d: input must have 5 dimensions [N, C, D, H, W]",
        ),
        (
            involution3d,
            [(2, 8, 4, 5, 6), (2, 2, 3, 3, 3, 4, 5, 6)],
            "weight must be [N, G, K_d, K_h, K_w, D_o, H_o, W_o] = [2, 2, 3, 3, 3, 2, 3, 4]",
        ),
    ],
    ids=["1d-dims", "1d-map", "3d-dims", "3d-map"],
)
def test_other_dimensions(function, sizes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(*map(torch.randn, sizes))


def test_1d_padding_says_that_a_pair_is_welcome():
    with pytest.raises(ValueError, match=re.escape("an int, a (left, right) pair, a tuple of 1 items")):
        involution1d(torch.randn(2, 8, 9), torch.randn(2, 2, 3, 9), padding=(1, 1, 1))


REDUCED, SPAN = torch.randn(2, 4, 7, 7), torch.randn(2, 3, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            (X, REDUCED[0], SPAN),
            ValueError,
            "reduced must have 4 dimensions [N, R, H_o, W_o]; got [4, 7, 7]",
            id="reduced-dims",
        ),
        pytest.param(
            (X, REDUCED, SPAN[0]),
            ValueError,
            "span_weight must have 4 dimensions [G, K_h, K_w, R]; got [3, 3, 4]",
            id="span-dims",
        ),
        pytest.param((X, REDUCED.half(), SPAN), TypeError, "input and reduced must have one dtype", id="reduced-dtype"),
        pytest.param(
            (X, REDUCED, SPAN.to("meta")), ValueError, "input and span_weight must be on one device", id="span-device"
        ),
        pytest.param(
            (X, REDUCED, SPAN.repeat(2, 1, 1, 1)[:3]), ValueError, "G a divisor of C = 8; got [3, 3, 3, 4]", id="groups"
        ),
        pytest.param((X, REDUCED, SPAN[:, :0]), ValueError, "none of them 0", id="no-tap"),
        pytest.param(
            (X, REDUCED, SPAN),
            ValueError,
            "reduced must be [N, R, H_o, W_o] = [2, 4, 5, 5] for input [2, 8, 7, 7]",
            id="size",
        ),
        pytest.param((X, REDUCED, SPAN[..., :3], None, 1, 1), ValueError, "= [2, 3, 7, 7]", id="features"),
        pytest.param(
            (X, REDUCED, SPAN, SPAN[:, 0, 0], 1, 1),
            ValueError,
            "span_bias must be [G, K_h, K_w] = [2, 3, 3]; got [2, 4]",
            id="bias",
        ),
        pytest.param((X[..., :2, :2], REDUCED, SPAN), ValueError, "window (3, 3) does not fit", id="window-larger"),
    ],
)
def test_dynamic_involution2d(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dynamic_involution2d(*arguments)


def test_per_dimension_and_per_side_normalise():
    assert per_dimension("stride", 2, 3) == (2, 2, 2)
    assert per_dimension("stride", [1, 2], 2) == (1, 2)
    assert per_side(1, 2, (3, 3), (1, 1)) == ((1, 1), (1, 1))
    assert per_side((1, (0, 2)), 2, (3, 3), (1, 1)) == ((1, 1), (0, 2))
    assert per_side((4, 0), 1, (5,), (1,)) == ((4, 0),)
    assert per_side("same", 2, (4, 7), (1, 2)) == ((1, None), (6, None))


def test_sizes_that_passed_once_do_not_let_others_pass():
    involution2d(X, W, None, 1, 1)
    with pytest.raises(TypeError, match="stride must be an int or a tuple of 2 ints; got True"):
        involution2d(X, W, None, True, 1)
    with pytest.raises(TypeError, match="one dtype"):
        involution2d(X, W.double(), None, 1, 1)
    with pytest.raises(ValueError, match="weight must be"):
        involution2d(X, W, None, 1, 0)
