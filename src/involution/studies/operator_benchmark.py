"""The operator against eager unfold on the layers of RedNet-50: time and peak memory, forward and with backward."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops import involution2d, native
from .baselines import unfold_involution2d
from .timing import interleave, peak_memory


@dataclass(frozen=True)
class Layer:
    """An involution layer: C channels in groups of 16, K×K kernels, an input of size × size pixels."""

    name: str
    channels: int
    kernel_size: int
    size: int
    stride: int


REDNET50 = (
    Layer("stem", 32, 3, 112, 1),
    Layer("stage 1", 64, 7, 56, 1),
    Layer("stage 2, stride 2", 128, 7, 56, 2),
    Layer("stage 2", 128, 7, 28, 1),
    Layer("stage 3, stride 2", 256, 7, 28, 2),
    Layer("stage 3", 256, 7, 14, 1),
    Layer("stage 4, stride 2", 512, 7, 14, 2),
    Layer("stage 4", 512, 7, 7, 1),
)
"""The different involution layers of RedNet-50 at 224×224."""


def run(
    batches: tuple[int, ...] = (1, 8), *, channels_last: bool = True, seconds: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Measure each layer of RedNet-50, having checked that both forms agree.

    Args:
        batches: Batch sizes.
        channels_last: Memory format of input and kernel map; else contiguous.
        seconds: Time to spend on each measurement.

    Yields:
        A row for each layer, batch and mode: milliseconds (p20, p50, p80) and peak extra MB of ``involution2d`` and of
        unfold, and the ratios unfold / involution.

    Raises:
        AssertionError: If the two forms disagree: nothing wrong is timed.
    """
    for batch in batches:
        for layer in REDNET50:
            tensors = _tensors(layer, batch, channels_last)
            for mode, candidates in _candidates(layer, *tensors).items():
                times = interleave(candidates, seconds=seconds)
                memory = {name: peak_memory(function) for name, function in candidates.items()}
                row: dict[str, Any] = {"layer": layer.name, "batch": batch, "mode": mode, "kernel": kernel_in_use()}
                row["memory_format"] = "channels_last" if channels_last else "contiguous"
                for name in candidates:
                    row |= {f"{name}_p20_ms": round(times[name].p20, 4), f"{name}_p50_ms": round(times[name].p50, 4)}
                    row |= {
                        f"{name}_p80_ms": round(times[name].p80, 4),
                        f"{name}_peak_mb": round(memory[name] / 1e6, 3),
                    }
                row["speedup"] = round(times["unfold"].p50 / times["involution"].p50, 2)
                row["memory_ratio"] = round(memory["unfold"] / memory["involution"], 2)
                yield row


def kernel_in_use() -> str:
    """Return which kernel serves these measurements: ``cpu-avx512`` and so on, ``cpu-plain`` or ``cuda-plain``."""
    if torch.cuda.is_available():
        return "cuda-plain"
    return f"cpu-{native.instruction_set() or 'plain'}"


def medians(rows: list[dict[str, Any]]) -> dict[tuple[int, str], tuple[float, float]]:
    """Return the median over layers of (speed-up, memory ratio) for each (batch, mode)."""
    keys = dict.fromkeys((row["batch"], row["mode"]) for row in rows)
    chosen = {key: [row for row in rows if (row["batch"], row["mode"]) == key] for key in keys}
    return {
        key: (statistics.median(r["speedup"] for r in some), statistics.median(r["memory_ratio"] for r in some))
        for key, some in chosen.items()
    }


def _tensors(layer: Layer, batch: int, channels_last: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out, groups = -(-layer.size // layer.stride), layer.channels // 16

    def random(channels: int, size: int) -> Tensor:
        values = torch.randn(batch, channels, size, size, generator=generator).to(device)
        return values.contiguous(memory_format=memory_format)

    weight = random(groups * layer.kernel_size**2, out).unflatten(1, (groups, layer.kernel_size, layer.kernel_size))
    return random(layer.channels, layer.size), weight, random(layer.channels, out)


def _candidates(layer: Layer, input: Tensor, weight: Tensor, grad: Tensor) -> dict[str, dict[str, Callable[[], Any]]]:
    forms: dict[str, Callable[..., Tensor]] = {"involution": involution2d, "unfold": unfold_involution2d}
    geometry: dict[str, Any] = {"stride": layer.stride, "padding": (layer.kernel_size - 1) // 2}

    def forward(form: Callable[..., Tensor]) -> Tensor:
        with torch.inference_mode():
            return form(input, weight, **geometry)

    def backward(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        x, w = input.detach().requires_grad_(), weight.detach().requires_grad_()
        return torch.autograd.grad(form(x, w, **geometry), (x, w), grad)

    torch.testing.assert_close(forward(forms["involution"]), forward(forms["unfold"]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(backward(forms["involution"]), backward(forms["unfold"]), rtol=1e-3, atol=1e-3)
    return {
        "forward": {name: partial(forward, form) for name, form in forms.items()},
        "forward+backward": {name: partial(backward, form) for name, form in forms.items()},
    }
