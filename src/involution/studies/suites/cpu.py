"""The CPU's kernels on the layers of RedNet-50 against what else PyTorch offers on a CPU, and whole networks.

It measures what serves: the C++ kernels, or without them the plain form.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from involution.engine.recompute import recompute_blocks
from involution.ops import dynamic_involution2d, involution2d, reference
from involution.studies.baselines import unfold_involution2d
from involution.studies.harness import Measurement, Options, Row, Suite, Target, measure, ratios, target
from involution.studies.workloads import (
    NETWORKS,
    REDNET50,
    TINY,
    TINY_NETWORKS,
    Layer,
    Networks,
    by_unfold,
    layer_tensors,
)

Candidates = dict[str, Callable[[], Any]]

_UNFUSED, _SHIFT, _COMPILED = "span, then involution", "shift and accumulate", "shift and accumulate, compiled"
_SELECTIVE = "selective checkpointing"
# larger batches of whole networks take too long; one step of this many for its memory
_NETWORKS_UP_TO = 8
_MEMORY_BATCH = 32
# a batch norm can't train on one image of one pixel, which is what 32 end in
_TINY_NETWORKS = replace(TINY_NETWORKS, size=64)


def _plan(options: Options) -> Iterator[Measurement]:
    small = options.quick or options.dry_run
    settings = options.filled(
        batches=(1,) if small else (1, 8, 16),
        seconds=0 if options.dry_run else 0.05 if options.quick else 1.0,
        rounds=2 if options.dry_run else 7,
    )
    layers, networks = (TINY, _TINY_NETWORKS) if options.dry_run else (REDNET50, NETWORKS)
    if "operator" in options.parts:
        for mode in ("call", "call with backward", "inference call"):
            yield Measurement(mode, partial(_tiny_call, mode, settings))
    for batch in settings.batches:
        if "operator" in options.parts:
            for layer in layers:
                for name, rows in _OF_LAYER.items():
                    yield Measurement(f"{name}, {layer.name}, batch {batch}", partial(rows, layer, batch, settings))
        if "networks" in options.parts and batch <= _NETWORKS_UP_TO:
            for name, of_networks in (("inference", _inference), ("training", _training)):
                rows = partial(of_networks, networks, batch, settings)
                yield Measurement(f"{name}, network, batch {batch}", rows)
    if "networks" in options.parts and (options.dry_run or not small):
        batch = 3 if options.dry_run else _MEMORY_BATCH
        rows = partial(_training_memory, networks, batch, settings)
        yield Measurement(f"memory of training, network, batch {batch}", rows)
    if small and "operator" in options.parts:
        # the limit of memory shows with batches only
        batch = 2 if options.dry_run else max(8, *settings.batches)
        for layer in layers:
            yield Measurement(f"memory, {layer.name}, batch {batch}", partial(_limits, layer, batch, settings))


def _measured(
    name: str, layer: str, batch: int, candidates: Candidates, base: str, settings: Any, **more: Any
) -> Iterator[Row]:
    # warm, or the first-level caches would hold what the candidate before has left
    how = {"seconds": settings.seconds, "rounds": settings.rounds, "warm": True, **more}
    yield from measure(candidates, base, measure=name, layer=layer, batch=batch, **how)


def _tiny_call(mode: str, settings: Any) -> Iterator[Row]:
    x, weight = torch.randn(1, 16, 3, 3), torch.randn(1, 1, 3, 3, 3, 3)
    filters = torch.randn(16, 1, 3, 3)
    forward: Candidates = {
        "involution": lambda: involution2d(x, weight, None, 1, 1),
        "depthwise 3×3": lambda: F.conv2d(x, filters, None, 1, 1, 1, 16),
    }
    candidates = forward
    if mode == "call with backward":
        for tensor in (x, weight, filters):
            tensor.requires_grad_()
        leaves, grad = {"involution": (x, weight), "depthwise 3×3": (x, filters)}, torch.randn(1, 16, 3, 3)
        candidates = {
            name: lambda name=name: torch.autograd.grad(forward[name](), leaves[name], grad)  # type: ignore[misc]
            for name in forward
        }
    with torch.inference_mode(mode == "inference call"):
        yield from _measured(mode, "1×16×3×3", 1, candidates, "involution", settings, calls=100)


def _forward(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    x, weight, _ = layer_tensors(layer, batch)
    with torch.inference_mode():
        stride, padding, _ = layer.geometry
        outer, contiguous = weight.contiguous(), x.contiguous()
        half = x.bfloat16(), weight.bfloat16()
        candidates: Candidates = {
            "involution": lambda: involution2d(x, weight, None, stride, padding),
            "taps outermost": lambda: involution2d(x, outer, None, stride, padding),
            "NCHW": lambda: involution2d(contiguous, outer, None, stride, padding),
            _SHIFT: lambda: reference.shift_forward(x, weight, *layer.geometry),
            "unfold": lambda: unfold_involution2d(x, weight, layer.stride, padding[0]),
        }
        if settings.compiled and batch == 1:
            # each shape on its own
            torch._dynamo.reset()
            shift = torch.compile(reference.shift_forward, dynamic=False)
            candidates[_COMPILED] = partial(shift, x, weight, *layer.geometry)
        _same(candidates)
        candidates["bfloat16"] = lambda: involution2d(*half, None, stride, padding)
        torch.testing.assert_close(candidates["bfloat16"]().float(), candidates["involution"](), rtol=0.05, atol=0.2)
        # 7×7 whatever the layer's K: what a ConvNeXt would have in its place
        filters = torch.randn(layer.channels, 1, 7, 7)
        candidates["depthwise 7×7"] = lambda: F.conv2d(x, filters, None, layer.stride, 3, 1, layer.channels)
        yield from _measured("forward", layer.name, batch, candidates, "involution", settings)


def _kernels(layer: Layer, x: Tensor, weight: Tensor, grad: Tensor) -> Candidates:
    operators, (groups, *kernel) = torch.ops.involution, weight.shape[1:4]
    return {
        "forward": lambda: operators.involution2d(x, weight, *layer.geometry),
        "of input": lambda: operators.involution2d_grad_input(grad, weight, x.shape[2:], *layer.geometry),
        "of map": lambda: operators.involution2d_grad_weight(grad, x, groups, kernel, *layer.geometry),
    }


def _gradients(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    x, weight, grad = layer_tensors(layer, batch)
    with torch.inference_mode():
        candidates = _kernels(layer, x, weight, grad)
        plain = {
            "of input": reference.shift_grad_input(grad, weight, x.shape[2:], *layer.geometry),
            "of map": reference.shift_grad_weight(grad, x, weight.shape[1], weight.shape[2:4], *layer.geometry),
        }
        for name, truth in plain.items():
            torch.testing.assert_close(candidates[name](), truth, rtol=1e-3, atol=1e-3)
        yield from _measured("gradients", layer.name, batch, candidates, "forward", settings)


def _generator(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, groups, k = layer.channels // 4, layer.channels // 16, layer.kernel_size
    size = -(-layer.size // layer.stride)
    reduced = torch.randn(x.shape[0], features, size, size).contiguous(memory_format=torch.channels_last)
    return reduced, torch.randn(groups, k, k, features), torch.randn(groups, k, k)


def _fused(layer: Layer, x: Tensor, *generator: Tensor) -> Tensor:
    reduced, weight, bias = generator
    return dynamic_involution2d(x, reduced, weight, bias, layer.stride, (layer.kernel_size - 1) // 2)


def _unfused(layer: Layer, x: Tensor, *generator: Tensor) -> Tensor:
    return involution2d(x, reference.span(*generator), None, layer.stride, (layer.kernel_size - 1) // 2)


def _generation(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    x, *_ = layer_tensors(layer, batch)
    generator = _generator(layer, x)
    forms = {"fused": _fused, _UNFUSED: _unfused}
    with torch.inference_mode():
        candidates: Candidates = {name: partial(form, layer, x, *generator) for name, form in forms.items()}
        _same(candidates, atol=1e-2)
        yield from _measured("generation", layer.name, batch, candidates, "fused", settings)


def _generation_training(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    x, _, grad = layer_tensors(layer, batch)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *_generator(layer, x))]

    def step(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(form(layer, *leaves), leaves, grad)

    for one, other in zip(step(_fused), step(_unfused), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.detach().abs().max()))
    candidates: Candidates = {"fused": partial(step, _fused), _UNFUSED: partial(step, _unfused)}
    yield from _measured("generation training", layer.name, batch, candidates, _UNFUSED, settings)


def _both(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    x, weight, grad = layer_tensors(layer, batch)

    def both(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
        return torch.autograd.grad(form(*leaves, stride=layer.stride, padding=layer.kernel_size // 2), leaves, grad)

    candidates: Candidates = {
        "involution": partial(both, involution2d),
        "unfold": partial(both, unfold_involution2d),
    }
    if settings.compiled and batch == 1:
        torch._dynamo.reset()
        candidates[_COMPILED] = partial(both, torch.compile(_shift, dynamic=False))
    _same(candidates)
    leaf = x.detach().requires_grad_()
    filters = torch.randn(layer.channels, 1, 7, 7, requires_grad=True)

    def depthwise() -> tuple[Tensor, ...]:
        output = F.conv2d(leaf, filters, None, layer.stride, 3, 1, layer.channels)
        return torch.autograd.grad(output, (leaf, filters), grad)

    candidates["depthwise 7×7"] = depthwise
    yield from _measured("forward+backward", layer.name, batch, candidates, "involution", settings)


def _shift(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    # differentiable by PyTorch itself
    return reference.shift_forward(input, weight, [stride] * 2, [padding] * 2, [1, 1])


def _limits(layer: Layer, batch: int, settings: Any) -> Iterator[Row]:
    """Time the kernels against what the machine does at most: one core's matrix product, and a copy in memory.

    The rows' ``limit_fraction`` is the kernel's multiply-adds inside the image a second over the matrix product's, or
    the bytes that it must read and write a second over the copy's.
    """
    x, weight, grad = layer_tensors(layer, batch)
    with torch.inference_mode():
        kernels = _kernels(layer, x, weight, grad)
        if batch == 1:
            matrix = torch.randn(512, 512)
            product = torch.empty_like(matrix)
            generator = _generator(layer, x)
            candidates: Candidates = {
                "matrix product": partial(torch.mm, matrix, matrix, out=product),
                **kernels,
                "fused": partial(_fused, layer, x, *generator),
            }
            generated = generator[0].numel() * math.prod(weight.shape[1:4])
            work = dict.fromkeys(kernels, layer.multiply_adds)
            work |= {"matrix product": 512**3, "fused": layer.multiply_adds + generated}
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                rows = list(_measured("one thread", layer.name, batch, candidates, "matrix product", settings, calls=8))
            finally:
                torch.set_num_threads(threads)
        else:
            # as large as what the forward kernel touches, and far larger than any cache
            source = torch.empty(max(2**25, (x.numel() + weight.numel() + grad.numel()) // 2))
            target = torch.empty_like(source)
            candidates = {"copy": partial(target.copy_, source), "forward": kernels["forward"]}
            work = {"copy": 2 * source.numel(), "forward": x.numel() + weight.numel() + grad.numel()}
            rows = list(_measured("memory", layer.name, batch, candidates, "copy", settings))
    for row in rows:
        if "p50_ratio" in row:
            row["limit_fraction"] = round(work[row["candidate"]] / work[row["base"]] / row["p50_ratio"], 3)
        yield row


_OF_LAYER: dict[str, Callable[[Layer, int, Any], Iterator[Row]]] = {
    "forward": _forward,
    "gradients": _gradients,
    "generation": _generation,
    "forward+backward": _both,
    "generation training": _generation_training,
    "limits": _limits,
}


def _inference(which: Networks, batch: int, settings: Any) -> Iterator[Row]:
    from involution import models

    x = which.images(batch)
    networks = which.build()
    rednet, resnet = which.rednet[1], which.resnet[1]
    for network in networks.values():
        network.eval()
    for name in (resnet, rednet):
        folded = copy.deepcopy(networks[name])
        models.fuse(folded)
        networks[f"{name}, folded"] = folded
        networks[f"{name}, optimised"] = optimised = copy.deepcopy(networks[name])
        models.optimize_for_inference(optimised)
    networks[f"{rednet} by unfold"] = by_unfold(networks[rednet])

    def infer(network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            return network(x)

    truth = infer(networks[rednet])
    for name in (f"{rednet}, folded", f"{rednet}, optimised", f"{rednet} by unfold"):
        torch.testing.assert_close(infer(networks[name]), truth, rtol=1e-2, atol=1e-2 * float(truth.abs().max()))
    candidates: Candidates = {name: partial(infer, network) for name, network in networks.items()}
    if settings.compiled:
        torch._dynamo.reset()
        for name in (f"{resnet}, folded", f"{rednet}, folded"):
            candidates[f"{name}, compiled"] = partial(infer, torch.compile(networks[name], dynamic=False))
    how = {"warm": False, "seconds": 4 * settings.seconds}
    yield from _measured("inference", "network", batch, candidates, f"{resnet}, folded", settings, **how)


def _training(which: Networks, batch: int, settings: Any, selective: bool = False) -> Iterator[Row]:
    x, labels = which.images(batch), torch.zeros(batch, dtype=torch.long)

    def train(network: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        network.zero_grad()
        F.cross_entropy(call(x), labels).backward()

    networks = which.build()
    candidates: Candidates = {}
    rednet, resnet = which.rednet[1], which.resnet[1]
    for name in (resnet, rednet):
        network = networks[name].train()
        candidates[name] = partial(train, network, network)
        if settings.compiled:
            candidates[f"{name}, compiled"] = partial(train, network, torch.compile(network, dynamic=False))
        if selective:
            again = copy.deepcopy(network)
            recompute_blocks(again, selective=True)
            candidates[f"{name}, {_SELECTIVE}"] = partial(train, again, again)
    # its kernel maps would not fit
    if not selective:
        network = by_unfold(networks[rednet])
        candidates[f"{rednet} by unfold"] = partial(train, network, network)
    how = {"warm": False, "seconds": 4 * settings.seconds}
    yield from _measured("training", "network", batch, candidates, resnet, settings, **how)


def _training_memory(which: Networks, batch: int, settings: Any) -> Iterator[Row]:
    some = replace(settings, seconds=0, rounds=2, compiled=False)
    for row in _training(which, batch, some, selective=True):
        yield {**row, "measure": "training memory"}


def _same(candidates: Candidates, atol: float = 1e-3) -> None:
    truth, *others = (function() for function in candidates.values())
    for other in others:
        torch.testing.assert_close(other, truth, rtol=1e-3, atol=atol)


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets; medians over the layers unless the name says otherwise."""
    found: list[Target] = []

    def fractions(measure: str, candidate: str, layers: str, batch: int = 1) -> list[float]:
        return [
            row["limit_fraction"]
            for row in rows
            if (row["measure"], row["candidate"], row.get("batch")) == (measure, candidate, batch)
            and re.fullmatch(layers, row["layer"])
            and "limit_fraction" in row
        ]

    for batch in dict.fromkeys(row["batch"] for row in rows if "batch" in row):
        of = partial(ratios, [row for row in rows if row.get("batch") == batch])
        at = f", batch {batch}"
        found += target(f"unfold ÷ ours, forward{at}", of("forward", "unfold", "involution"), least=60)
        found += target(f"compiled shift ÷ ours, forward{at}", of("forward", _COMPILED, "involution"), least=1.8)
        if batch == 1:
            depthwise = of("forward", "depthwise 7×7", "involution")
            name = f"depthwise 7×7 ÷ ours, forward, weakest layer{at}"
            found += target(name, depthwise, least=1, worst=True)
        found += target(f"gradient of input ÷ forward{at}", of("gradients", "of input", "forward"), most=1.3)
        found += target(f"gradient of map ÷ forward{at}", of("gradients", "of map", "forward"), most=2)
        both = partial(of, "forward+backward", under="involution")
        found += target(f"unfold ÷ ours, forward+backward{at}", both("unfold"), least=30)
        found += target(f"compiled shift ÷ ours, forward+backward{at}", both(_COMPILED), least=3.5)
        found += target(f"bfloat16 ÷ float32, forward{at}", of("forward", "bfloat16", "involution"), most=1)
        if batch != 8:
            found += target(f"fused ÷ {_UNFUSED}, inference{at}", of("generation", "fused", _UNFUSED), most=0.7)
        training = partial(of, "generation training", "fused", _UNFUSED)
        found += target(f"fused ÷ {_UNFUSED}, training{at}", training(), most=0.9)
        found += target(f"fused ÷ {_UNFUSED}, peak memory of training{at}", training("peak_bytes"), most=0.5)
        for suffix in ("", ", compiled"):
            folded = of("inference", f"RedNet-50, folded{suffix}", f"ResNet-50, folded{suffix}")
            found += target(f"RedNet-50 ÷ ResNet-50, inference{suffix}{at}", folded, most=0.75)
            step = of("training", f"RedNet-50{suffix}", f"ResNet-50{suffix}")
            found += target(f"RedNet-50 ÷ ResNet-50, training step{suffix}{at}", step, most=0.85)
        optimised = of("inference", "RedNet-50, optimised", "ResNet-50, optimised")
        found += target(f"RedNet-50 ÷ ResNet-50, inference, optimised{at}", optimised, most=0.75 if batch == 1 else 0.7)
        held = partial(of, "training memory", key="peak_bytes")
        name = f"RedNet-50{{}} ÷ ResNet-50{{}}, peak memory of a training step{at}"
        less = f", {_SELECTIVE}"
        for over, under in (("", ""), (less, ""), (less, less)):
            memory = held(f"RedNet-50{over}", f"ResNet-50{under}")
            found += target(name.format(over, under), memory, most=0.75)
    square, odd = r"stage \d", "stem|.*stride 2"
    matrix = partial(fractions, "one thread")
    name = "share of a matrix product, {}, one thread"
    found += target(name.format("7×7 stride 1"), matrix("forward", square), least=0.8)
    weakest = name.format("{}, weakest stage, stride 1")
    found += target(weakest.format("forward"), matrix("forward", square), least=0.65, worst=True)
    found += target(weakest.format("fused"), matrix("fused", square), least=0.75, worst=True)
    found += target(name.format("stem and stride 2"), matrix("forward", odd), least=0.55)
    found += target("share of a matrix product, map's gradient there", matrix("of map", odd), least=0.35)
    copied = fractions("memory", "forward", "stage 1", 16)
    found += target("share of a copy's bandwidth, stage 1, batch 16", copied, least=0.65)
    for measured, most in (("call", 15.0), ("call with backward", 60.0), ("inference call", 12.0)):
        call = [row for row in rows if (row["measure"], row["candidate"]) == (measured, "involution")]
        found += target(f"tiny {measured}, µs", [row["p50_ms"] * 1e3 for row in call if "p50_ms" in row], most=most)
        found += target(
            f"tiny {measured} ÷ depthwise 3×3", ratios(rows, measured, "involution", "depthwise 3×3"), most=1
        )
    return found


SUITE = Suite(("operator", "networks"), _plan, _targets, on_cpu=True)
