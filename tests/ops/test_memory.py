"""Extra memory of the plain form: a small multiple of the output, whatever the kernel size."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from involution import involution2d


def peak_bytes(function):
    """Return how many bytes above the start were allocated at once, by the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = function()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    assert events
    del kept
    now = peak = 0
    for event in events:
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_the_measure_sees_unfold():
    x = torch.randn(1, 32, 24, 24)
    assert peak_bytes(lambda: F.unfold(x, 7, padding=3)) >= 49 * x.nbytes


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_peak_is_a_small_multiple_of_input_and_output(kernel, stride, channels_last):
    x = torch.randn(2, 64, 24, 24)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    size = 24 // stride
    # one map for all, that its gradient does not hide the rest
    w = torch.randn(2, 1, kernel, kernel, size, size)

    def call(x, w):
        return involution2d(x, w, stride=stride, padding="same")

    # input padded by half a kernel on each side, and two of its size for layouts
    padded = x.nbytes * ((24 + kernel) / 24) ** 2
    assert peak_bytes(lambda: call(x, w)) <= 3 * padded

    leaf, map_leaf = x.requires_grad_(), w.requires_grad_()
    out = call(leaf, map_leaf)
    grad = torch.randn_like(out)
    results = x.nbytes + w.nbytes
    assert peak_bytes(lambda: torch.autograd.grad(out, (leaf, map_leaf), grad)) <= results + 4 * padded


def test_extra_memory_does_not_grow_with_the_number_of_taps():
    x = torch.randn(1, 64, 32, 32, requires_grad=True)

    def extra(kernel):
        # the rim of zeros stays the same: dilation, not more border
        w = torch.randn(1, 1, kernel, kernel, 20, 20, requires_grad=True)
        dilation = 12 // (kernel - 1)
        out = involution2d(x, w, dilation=dilation)
        grad = torch.randn_like(out)
        return peak_bytes(lambda: torch.autograd.grad(out, (x, w), grad)) - w.nbytes

    assert extra(13) <= 1.1 * extra(3)
