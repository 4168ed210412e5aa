"""How far a result may be from float64 truth: the one table, for every kernel, operator and dtype."""

import torch

# of one rounding to the dtype
ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# The largest error over the largest value + 1. Half types are accumulated in float32, and so are off by their one
# rounding; float32 and float64 by those of sums of up to 169 taps or 64 channels. A tap or channel too many or too few
# is a hundred times as much.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
DTYPES = list(TOLERANCE)
# for torch.testing.assert_close of float64 with float64
EXACT = {"rtol": 1e-12, "atol": 1e-12}
# of whole networks, for torch.testing.assert_close: rounding adds up over a hundred layers
NETWORK = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}
# how often the error of eager PyTorch ours may be, in the same dtype
TIMES_EAGER = {torch.float32: 2.0, torch.bfloat16: 1.5, torch.float16: 1.5}


def assert_near(result, truth, what="", roundings=1, largest=0):
    """Compare with float64 truth.

    `roundings` counts those to the result's dtype on the way, beside sums in float32; `largest` is the largest value on
    the way, where that is larger than the truth's.
    """
    assert truth.dtype == torch.float64
    assert result.shape == truth.shape, f"{what}: {list(result.shape)} instead of {list(truth.shape)}"
    largest = max(largest, truth.abs().amax().item() if truth.numel() else 0)
    error = (result.double() - truth).abs() / (largest + 1)
    # in this form a NaN fails too
    roundings = roundings * TOLERANCE[result.dtype]
    assert (error <= roundings).all(), f"{what}: {error.max():.3g} of the largest value, {roundings:.3g} allowed"


def assert_within(result, truth, unsigned, what="", on_the_way=0):
    """Compare each element with float64 truth as closely as its dtype allows.

    Three errors add up: one rounding of the result; that of sums in the arithmetic type; and `on_the_way` roundings of
    terms to the dtype. The last two go with `unsigned`, the sum of the terms without their signs: in the result they
    may cancel. Below the smallest normal number a rounding is off by as much as there.
    """
    roundoff, info = ROUNDOFF[result.dtype], torch.finfo(result.dtype)
    sums = TOLERANCE[torch.float32 if result.dtype.itemsize == 2 else result.dtype]
    of_sums = (sums + (1 + roundoff) ** on_the_way - 1) * (unsigned + info.smallest_normal)
    allowed = of_sums + roundoff * (truth.abs() + of_sums + info.smallest_normal)
    assert result.shape == truth.shape, f"{what}: {list(result.shape)} instead of {list(truth.shape)}"
    times = (result.double() - truth).abs() / allowed
    # in this form a NaN fails too
    assert (times <= 1).all(), f"{what}: {times.max():.3g} times what is allowed"
