"""The C++ kernels on the layers of RedNet-50 against what else PyTorch offers on a CPU, and whole networks."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dynamic_involution2d, involution2d, native, reference
from .baselines import unfold_involution2d
from .operator_benchmark import REDNET50, Layer, _tensors
from .timing import interleaved_ratios

Candidates = dict[str, Callable[[], Any]]


def run(batches: tuple[int, ...] = (1, 8), *, seconds: float = 1.0, networks: bool = True) -> Iterator[dict[str, Any]]:
    """Measure, having checked that what is timed computes the same.

    Args:
        batches: Batch sizes.
        seconds: Time to spend on each measurement.
        networks: Also time RedNet-50 against ResNet-50.

    Yields:
        A row for each candidate: what was measured, on which layer and batch, milliseconds and the ratio to the native
        kernel's time in the same round, each as p20, p50 and p80.

    Raises:
        RuntimeError: Without the C++ kernels.
        AssertionError: If a candidate computes something else: nothing wrong is timed.
    """
    if native.reason is not None:
        raise RuntimeError(f"there are no C++ kernels to time: {native.reason}")
    yield from _rows("call", "1×16×3×3", 1, _tiny_call(), "involution", seconds)
    for batch in batches:
        for layer in REDNET50:
            x, weight, grad = _tensors(layer, batch, channels_last=True)
            with torch.inference_mode():
                groups = {
                    "forward": (_forward(layer, x, weight), "involution"),
                    "gradients": (_gradients(layer, x, weight, grad), "forward"),
                    "generation": (_generation(layer, x), "fused"),
                }
                for measure, (candidates, base) in groups.items():
                    yield from _rows(measure, layer.name, batch, candidates, base, seconds)
            yield from _rows(
                "forward+backward", layer.name, batch, _both(layer, x, weight, grad), "involution", seconds
            )
        if networks:
            for mode in ("inference", "training"):
                yield from _rows(mode, "network", batch, _networks(batch, mode), "ResNet-50", 4 * seconds)


def _rows(
    measure: str, layer: str, batch: int, candidates: Candidates, base: str, seconds: float
) -> Iterator[dict[str, Any]]:
    times, ratios = interleaved_ratios(candidates, base, seconds=seconds)
    for name, time in times.items():
        row: dict[str, Any] = {"measure": measure, "layer": layer, "batch": batch, "candidate": name, "base": base}
        for percentile in ("p20", "p50", "p80"):
            row[f"{percentile}_ms"] = round(getattr(time, percentile), 5)
            row[f"{percentile}_ratio"] = round(getattr(ratios[name], percentile), 3)
        yield row


def _geometry(layer: Layer) -> tuple[list[int], list[int], list[int]]:
    return [layer.stride] * 2, [(layer.kernel_size - 1) // 2] * 2, [1, 1]


def _depthwise(layer: Layer, x: Tensor) -> Callable[[], Tensor]:
    # 7×7 whatever the layer's K: what a ConvNeXt would have in its place
    filters = torch.randn(layer.channels, 1, 7, 7)
    return lambda: F.conv2d(x, filters, None, layer.stride, 3, 1, layer.channels)


def _forward(layer: Layer, x: Tensor, weight: Tensor) -> Candidates:
    geometry = _geometry(layer)
    stride, padding = layer.stride, (layer.kernel_size - 1) // 2
    half = x.bfloat16(), weight.bfloat16()
    outer, contiguous = weight.contiguous(), x.contiguous()
    candidates: Candidates = {
        "involution": lambda: involution2d(x, weight, None, stride, padding),
        "taps outermost": lambda: involution2d(x, outer, None, stride, padding),
        "NCHW": lambda: involution2d(contiguous, outer, None, stride, padding),
        "shift and accumulate": lambda: reference.shift_forward(x, weight, *geometry),
        "unfold": lambda: unfold_involution2d(x, weight, stride, padding),
    }
    _same(candidates)
    candidates["bfloat16"] = lambda: involution2d(*half, None, stride, padding)
    torch.testing.assert_close(candidates["bfloat16"]().float(), candidates["involution"](), rtol=0.05, atol=0.2)
    candidates["depthwise 7×7"] = _depthwise(layer, x)
    return candidates


def _gradients(layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> Candidates:
    geometry, operators = _geometry(layer), torch.ops.involution
    groups, kernel = weight.shape[1], weight.shape[2:4]
    candidates: Candidates = {
        "of input": lambda: operators.involution2d_grad_input(grad, weight, x.shape[2:], *geometry),
        "of map": lambda: operators.involution2d_grad_weight(grad, x, groups, kernel, *geometry),
    }
    plain = (
        reference.shift_grad_input(grad, weight, x.shape[2:], *geometry),
        reference.shift_grad_weight(grad, x, groups, kernel, *geometry),
    )
    for function, truth in zip(candidates.values(), plain, strict=True):
        torch.testing.assert_close(function(), truth, rtol=1e-3, atol=1e-3)
    return {"forward": lambda: operators.involution2d(x, weight, *geometry), **candidates}


def _generation(layer: Layer, x: Tensor) -> Candidates:
    features, groups, k = layer.channels // 4, layer.channels // 16, layer.kernel_size
    size = -(-layer.size // layer.stride)
    reduced = torch.randn(x.shape[0], features, size, size).contiguous(memory_format=torch.channels_last)
    span, bias = torch.randn(groups, k, k, features), torch.randn(groups, k, k)
    padding = (k - 1) // 2
    candidates: Candidates = {
        "fused": lambda: dynamic_involution2d(x, reduced, span, bias, layer.stride, padding),
        "span, then involution": lambda: involution2d(
            x, reference.span(reduced, span, bias), None, layer.stride, padding
        ),
    }
    _same(candidates, atol=1e-2)
    return candidates


def _both(layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> Candidates:
    def both(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
        return torch.autograd.grad(form(*leaves, stride=layer.stride, padding=layer.kernel_size // 2), leaves, grad)

    def depthwise(function: Callable[[], Tensor], filters: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(), (leaf, filters), grad)

    candidates: Candidates = {
        "involution": partial(both, involution2d),
        "unfold": partial(both, unfold_involution2d),
    }
    _same(candidates)
    leaf = x.detach().requires_grad_()
    filters = torch.randn(layer.channels, 1, 7, 7, requires_grad=True)
    convolve = partial(F.conv2d, leaf, filters, None, layer.stride, 3, 1, layer.channels)
    candidates["depthwise 7×7"] = partial(depthwise, convolve, filters)
    return candidates


def _tiny_call() -> Candidates:
    x, weight = torch.randn(1, 16, 3, 3), torch.randn(1, 1, 3, 3, 3, 3)
    filters = torch.randn(16, 1, 3, 3)

    def inference(function: Callable[[], Tensor]) -> Tensor:
        with torch.inference_mode():
            return function()

    call = partial(involution2d, x, weight, None, 1, 1)
    return {
        "involution": call,
        "involution, inference mode": partial(inference, call),
        "depthwise 3×3": lambda: F.conv2d(x, filters, None, 1, 1, 1, 16),
    }


def _networks(batch: int, mode: str) -> Candidates:
    import timm
    import torchvision

    from .. import models  # noqa: F401, registers RedNet with timm

    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long)

    def infer(network: nn.Module) -> Tensor:
        with torch.inference_mode():
            return network(x)

    def train(network: nn.Module) -> None:
        network.zero_grad()
        F.cross_entropy(network(x), labels).backward()

    networks = {"ResNet-50": torchvision.models.resnet50(), "RedNet-50": timm.create_model("rednet50")}
    step = infer if mode == "inference" else train
    candidates: Candidates = {}
    for name, network in networks.items():
        network.train(mode == "training").to(memory_format=torch.channels_last)
        candidates[name] = partial(step, network)
    return candidates


def _same(candidates: Candidates, atol: float = 1e-3) -> None:
    truth, *others = (function() for function in candidates.values())
    for other in others:
        torch.testing.assert_close(other, truth, rtol=1e-3, atol=atol)
