"""The operator against eager unfold on the layers of RedNet-50: time and peak memory, forward and with backward.

It needs nothing of the device: with the plain form, and on a GPU without Triton, it measures the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from involution.ops import involution2d
from involution.studies.baselines import unfold_involution2d
from involution.studies.harness import Measurement, Options, Row, Suite, measure
from involution.studies.workloads import REDNET50, TINY, Layer, layer_tensors

_PARTS = ("channels_last", "contiguous")


def _plan(options: Options) -> Iterator[Measurement]:
    small = options.quick or options.dry_run
    settings = options.filled(
        batches=(1,) if small else (1, 8),
        seconds=0 if options.dry_run else 0.05 if options.quick else 1.0,
        rounds=2 if options.dry_run else 7,
    )
    layers: Sequence[Layer] = TINY if options.dry_run else REDNET50
    for memory_format in options.parts:
        for batch in settings.batches:
            for layer in layers:
                for mode, call in (("forward", _forward), ("forward+backward", _backward)):
                    rows = partial(_rows, layer, batch, mode, call, memory_format, settings)
                    yield Measurement(f"{mode}, {layer.name}, batch {batch}, {memory_format}", rows)


def _rows(
    layer: Layer, batch: int, mode: str, call: Callable[..., Any], memory_format: str, settings: Any
) -> Iterator[Row]:
    tensors = layer_tensors(layer, batch, channels_last=memory_format == "channels_last")
    forms = {"involution": involution2d, "unfold": unfold_involution2d}
    candidates = {name: partial(call, form, layer, *tensors) for name, form in forms.items()}
    # nothing wrong is timed
    torch.testing.assert_close(candidates["involution"](), candidates["unfold"](), rtol=1e-3, atol=1e-3)
    yield from measure(
        candidates,
        "involution",
        seconds=settings.seconds,
        rounds=settings.rounds,
        measure=mode,
        layer=layer.name,
        batch=batch,
        memory_format=memory_format,
    )


def _forward(form: Callable[..., Tensor], layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    with torch.inference_mode():
        return form(x, weight, stride=layer.stride, padding=(layer.kernel_size - 1) // 2)


def _backward(form: Callable[..., Tensor], layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return torch.autograd.grad(form(*leaves, stride=layer.stride, padding=(layer.kernel_size - 1) // 2), leaves, grad)


SUITE = Suite(_PARTS, _plan)
