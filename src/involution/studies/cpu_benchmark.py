"""The C++ kernels on the layers of RedNet-50 against what else PyTorch offers on a CPU, and whole networks."""

import copy
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import Involution2d
from ..ops import dynamic_involution2d, involution2d, native, reference
from .baselines import unfold_involution2d
from .operator_benchmark import REDNET50, Layer, _tensors
from .timing import interleaved_ratios, peak_memory

Candidates = dict[str, Callable[[], Any]]


def run(
    batches: tuple[int, ...] = (1, 8),
    *,
    seconds: float = 1.0,
    networks: bool = True,
    compiled: bool = False,
    layers: tuple[Layer, ...] = REDNET50,
) -> Iterator[dict[str, Any]]:
    """Measure, having checked that what is timed computes the same.

    Args:
        batches: Batch sizes.
        seconds: Time to spend on each measurement.
        networks: Also time RedNet-50 against ResNet-50, at batches up to 8.
        compiled: Also time torch.compile of the shift form at batch 1, and of the networks; compiling takes
            many minutes.
        layers: Layers of the operator.

    Yields:
        A row for each candidate: what was measured, on which layer and batch, milliseconds and the ratio to the native
        kernel's time in the same round, each as p20, p50 and p80.

    Raises:
        RuntimeError: Without the C++ kernels.
        AssertionError: If a candidate computes something else: nothing wrong is timed.
    """
    if native.reason is not None:
        raise RuntimeError(f"there are no C++ kernels to time: {native.reason}")
    yield from _rows("call", "1×16×3×3", 1, _tiny_call(), "involution", seconds, calls=100)
    with torch.inference_mode():
        yield from _rows("inference call", "1×16×3×3", 1, _tiny_call(), "involution", seconds, calls=100)
    for batch in batches:
        for layer in layers:
            x, weight, grad = _tensors(layer, batch, channels_last=True)
            with torch.inference_mode():
                groups = {
                    "forward": (_forward(layer, x, weight, compiled and batch == 1), "involution"),
                    "gradients": (_gradients(layer, x, weight, grad), "forward"),
                    "generation": (_generation(layer, x), "fused"),
                }
                for measure, (candidates, base) in groups.items():
                    yield from _rows(measure, layer.name, batch, candidates, base, seconds)
            both = _both(layer, x, weight, grad, compiled and batch == 1)
            yield from _rows("forward+backward", layer.name, batch, both, "involution", seconds)
            fused = _generation_training(layer, x, grad)
            memory = {name: peak_memory(function) for name, function in fused.items()}
            for row in _rows("generation training", layer.name, batch, fused, "span, then involution", seconds):
                yield {**row, "peak_bytes": memory[row["candidate"]]}
            with torch.inference_mode():
                yield from _limits(layer, batch, x, weight, grad, seconds)
        if networks and batch <= 8:
            inference, training = _networks(batch, compiled), _training_steps(batch, compiled)
            yield from _rows("inference", "network", batch, inference, "ResNet-50, folded", 4 * seconds, warm=False)
            yield from _rows("training", "network", batch, training, "ResNet-50", 4 * seconds, warm=False)


def _rows(
    measure: str,
    layer: str,
    batch: int,
    candidates: Candidates,
    base: str,
    seconds: float,
    *,
    warm: bool = True,
    calls: int = 1,
) -> Iterator[dict[str, Any]]:
    # warm, or the first-level caches would hold what the candidate before has left
    if calls > 1:
        candidates = {name: partial(_repeat, function, calls) for name, function in candidates.items()}
    times, ratios = interleaved_ratios(candidates, base, seconds=seconds, warm=warm)
    for name, time in times.items():
        row: dict[str, Any] = {"measure": measure, "layer": layer, "batch": batch, "candidate": name, "base": base}
        for percentile in ("p20", "p50", "p80"):
            row[f"{percentile}_ms"] = round(getattr(time, percentile) / calls, 5)
            row[f"{percentile}_ratio"] = round(getattr(ratios[name], percentile), 3)
        yield row


def _limits(
    layer: Layer, batch: int, x: Tensor, weight: Tensor, grad: Tensor, seconds: float
) -> Iterator[dict[str, Any]]:
    """Time the kernels against what the machine does at most: one core's matrix product, and a copy in memory.

    The rows' ``limit_fraction`` is the kernel's multiply-adds inside the image a second over the matrix product's, or
    the bytes that it must read and write a second over the copy's.
    """
    geometry, groups, kernel = _geometry(layer), weight.shape[1], weight.shape[2:4]
    operators = torch.ops.involution
    kernels: Candidates = {
        "forward": lambda: operators.involution2d(x, weight, *geometry),
        "of input": lambda: operators.involution2d_grad_input(grad, weight, x.shape[2:], *geometry),
        "of map": lambda: operators.involution2d_grad_weight(grad, x, groups, kernel, *geometry),
    }
    if batch == 1:
        matrix = torch.randn(512, 512)
        product = torch.empty_like(matrix)
        candidates: Candidates = {"matrix product": partial(torch.mm, matrix, matrix, out=product), **kernels}
        work = dict.fromkeys(kernels, multiply_adds(layer)) | {"matrix product": 512**3}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            rows = list(_rows("one thread", layer.name, batch, candidates, "matrix product", seconds, calls=8))
        finally:
            torch.set_num_threads(threads)
    else:
        # as large as what the forward kernel touches, and far larger than any cache
        source = torch.empty(max(2**25, (x.numel() + weight.numel() + grad.numel()) // 2))
        copy = torch.empty_like(source)
        candidates = {"copy": partial(copy.copy_, source), "forward": kernels["forward"]}
        work = {"copy": 2 * source.numel(), "forward": x.numel() + weight.numel() + grad.numel()}
        rows = list(_rows("memory", layer.name, batch, candidates, "copy", seconds))
    for row in rows:
        name = row["candidate"]
        yield {**row, "limit_fraction": round(work[name] / work[row["base"]] / row["p50_ratio"], 3)}


def _repeat(function: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        function()


def multiply_adds(layer: Layer) -> int:
    """Return the multiply-adds of one image, those with the zeros around it left out."""
    padding = (layer.kernel_size - 1) // 2
    taps = sum(
        0 <= start * layer.stride + tap - padding < layer.size
        for start in range(-(-layer.size // layer.stride))
        for tap in range(layer.kernel_size)
    )
    return layer.channels * taps * taps


@dataclass(frozen=True)
class Target:
    """What a figure of the benchmark shall be, and what it is."""

    name: str
    wanted: str
    measured: float
    met: bool


def summary(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets; medians over the layers unless the name says otherwise."""
    table = list(rows)
    targets = []

    def ratios(measure: str, over: str, under: str, batch: int) -> list[float]:
        """Return the ratio of two candidates' times on each layer."""
        found: dict[str, dict[str, float]] = {}
        for row in table:
            if row["measure"] == measure and row["batch"] == batch:
                found.setdefault(row["layer"], {})[row["candidate"]] = row["p50_ms"]
        return [times[over] / times[under] for times in found.values() if over in times and under in times]

    def fractions(measure: str, candidate: str, layers: str) -> list[float]:
        return [
            row["limit_fraction"]
            for row in table
            if row["measure"] == measure and row["candidate"] == candidate and re.fullmatch(layers, row["layer"])
        ]

    def add(name: str, values: list[float], *, least: float | None = None, most: float | None = None) -> None:
        if not values:
            return
        value = statistics.median(values)
        met = value >= least if least is not None else value <= (most or 0)
        targets.append(Target(name, f"≥ {least:g}" if least is not None else f"≤ {most:g}", round(value, 3), met))

    shift, span = "shift and accumulate, compiled", "span, then involution"
    for batch in dict.fromkeys(row["batch"] for row in table):
        of = partial(ratios, batch=batch)
        at = f", batch {batch}"
        add(f"unfold ÷ ours, forward{at}", of("forward", "unfold", "involution"), least=60)
        add(f"compiled shift ÷ ours, forward{at}", of("forward", shift, "involution"), least=1.8)
        if batch == 1:
            weakest = of("forward", "depthwise 7×7", "involution")
            add(f"depthwise 7×7 ÷ ours, forward, weakest layer{at}", weakest and [min(weakest)], least=1)
        add(f"gradient of input ÷ forward{at}", of("gradients", "of input", "forward"), most=1.3)
        add(f"gradient of map ÷ forward{at}", of("gradients", "of map", "forward"), most=2)
        add(f"unfold ÷ ours, forward+backward{at}", of("forward+backward", "unfold", "involution"), least=30)
        add(f"compiled shift ÷ ours, forward+backward{at}", of("forward+backward", shift, "involution"), least=3.5)
        add(f"bfloat16 ÷ float32, forward{at}", of("forward", "bfloat16", "involution"), most=1)
        if batch != 8:
            add(f"fused ÷ {span}, inference{at}", of("generation", "fused", span), most=0.7)
        add(f"fused ÷ {span}, training{at}", of("generation training", "fused", span), most=0.9)
        memory: dict[str, dict[str, int]] = {}
        for row in table:
            if row.get("peak_bytes") and row["batch"] == batch:
                memory.setdefault(row["layer"], {})[row["candidate"]] = row["peak_bytes"]
        add(f"fused ÷ {span}, peak memory of training{at}", [m["fused"] / m[span] for m in memory.values()], most=0.5)
        for suffix in ("", ", compiled"):
            folded = of("inference", f"RedNet-50, folded{suffix}", f"ResNet-50, folded{suffix}")
            add(f"RedNet-50 ÷ ResNet-50, inference{suffix}{at}", folded, most=0.75)
            step = of("training", f"RedNet-50{suffix}", f"ResNet-50{suffix}")
            add(f"RedNet-50 ÷ ResNet-50, training step{suffix}{at}", step, most=0.85)
    odd = "stem|.*stride 2"
    add(
        "share of a matrix product, 7×7 stride 1, one thread",
        fractions("one thread", "forward", r"stage \d"),
        least=0.8,
    )
    add("share of a matrix product, stem and stride 2, one thread", fractions("one thread", "forward", odd), least=0.55)
    add("share of a matrix product, map's gradient there", fractions("one thread", "of map", odd), least=0.35)
    stage1 = [
        r["limit_fraction"]
        for r in table
        if (r["measure"], r["layer"], r["batch"]) == ("memory", "stage 1", 16) and r["candidate"] == "forward"
    ]
    add("share of a copy's bandwidth, stage 1, batch 16", stage1, least=0.65)
    for measure, most in (("call", 25.0), ("inference call", 12.0)):
        call = [r["p50_ms"] * 1e3 for r in table if (r["measure"], r["candidate"]) == (measure, "involution")]
        add(f"tiny {measure}, µs", call, most=most)
        less = ratios(measure, "involution", "depthwise 3×3", 1)
        add(f"tiny {measure} ÷ depthwise 3×3", less, most=1)
    return targets


def _geometry(layer: Layer) -> tuple[list[int], list[int], list[int]]:
    return [layer.stride] * 2, [(layer.kernel_size - 1) // 2] * 2, [1, 1]


def _depthwise(layer: Layer, x: Tensor) -> Callable[[], Tensor]:
    # 7×7 whatever the layer's K: what a ConvNeXt would have in its place
    filters = torch.randn(layer.channels, 1, 7, 7)
    return lambda: F.conv2d(x, filters, None, layer.stride, 3, 1, layer.channels)


def _forward(layer: Layer, x: Tensor, weight: Tensor, compiled: bool) -> Candidates:
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
    if compiled:
        candidates["shift and accumulate, compiled"] = _compiled(reference.shift_forward, x, weight, *geometry)
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


def _compiled(function: Callable[..., Tensor], *args: Any) -> Callable[[], Tensor]:
    # each shape on its own
    torch._dynamo.reset()
    return partial(torch.compile(function, dynamic=False), *args)


def _generation_training(layer: Layer, x: Tensor, grad: Tensor) -> Candidates:
    features, groups, k = layer.channels // 4, layer.channels // 16, layer.kernel_size
    reduced = torch.randn(x.shape[0], features, *grad.shape[2:]).contiguous(memory_format=torch.channels_last)
    span, bias = torch.randn(groups, k, k, features), torch.randn(groups, k, k)
    leaves = [t.detach().requires_grad_() for t in (x, reduced, span, bias)]
    padding = (k - 1) // 2

    def fused() -> tuple[Tensor, ...]:
        input, reduced, span_weight, span_bias = leaves
        output = dynamic_involution2d(input, reduced, span_weight, span_bias, layer.stride, padding)
        return torch.autograd.grad(output, leaves, grad)

    def unfused() -> tuple[Tensor, ...]:
        input, *generator = leaves
        output = involution2d(input, reference.span(*generator), None, layer.stride, padding)
        return torch.autograd.grad(output, leaves, grad)

    candidates: Candidates = {"fused": fused, "span, then involution": unfused}
    for one, other in zip(fused(), unfused(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.detach().abs().max()))
    return candidates


def _both(layer: Layer, x: Tensor, weight: Tensor, grad: Tensor, compiled: bool) -> Candidates:
    def both(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
        return torch.autograd.grad(form(*leaves, stride=layer.stride, padding=layer.kernel_size // 2), leaves, grad)

    def depthwise(function: Callable[[], Tensor], filters: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(), (leaf, filters), grad)

    candidates: Candidates = {
        "involution": partial(both, involution2d),
        "unfold": partial(both, unfold_involution2d),
    }
    if compiled:
        torch._dynamo.reset()
        candidates["shift and accumulate, compiled"] = partial(both, torch.compile(_shift, dynamic=False))
    _same(candidates)
    leaf = x.detach().requires_grad_()
    filters = torch.randn(layer.channels, 1, 7, 7, requires_grad=True)
    convolve = partial(F.conv2d, leaf, filters, None, layer.stride, 3, 1, layer.channels)
    candidates["depthwise 7×7"] = partial(depthwise, convolve, filters)
    return candidates


def _shift(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    # differentiable by PyTorch itself
    return reference.shift_forward(input, weight, [stride] * 2, [padding] * 2, [1, 1])


def _tiny_call() -> Candidates:
    x, weight = torch.randn(1, 16, 3, 3), torch.randn(1, 1, 3, 3, 3, 3)
    filters = torch.randn(16, 1, 3, 3)

    return {
        "involution": lambda: involution2d(x, weight, None, 1, 1),
        "depthwise 3×3": lambda: F.conv2d(x, filters, None, 1, 1, 1, 16),
    }


def _networks(batch: int, compiled: bool) -> Candidates:
    import timm
    import torchvision

    from .. import models

    x = _images(batch)
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {
        "ResNet-50": torchvision.models.resnet50(),
        "RedNet-50": timm.create_model("rednet50"),
        "ConvNeXt-T": timm.create_model("convnext_tiny"),
    }
    for network in networks.values():
        network.eval().to(memory_format=torch.channels_last)
    for name in ("ResNet-50", "RedNet-50"):
        folded = copy.deepcopy(networks[name])
        models.fuse(folded)
        networks[f"{name}, folded"] = folded
    networks["RedNet-50 by unfold"] = _by_unfold(networks["RedNet-50"])

    def infer(network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            return network(x)

    truth = infer(networks["RedNet-50"])
    for name in ("RedNet-50, folded", "RedNet-50 by unfold"):
        torch.testing.assert_close(infer(networks[name]), truth, rtol=1e-2, atol=1e-2 * float(truth.abs().max()))
    candidates: Candidates = {name: partial(infer, network) for name, network in networks.items()}
    if compiled:
        torch._dynamo.reset()
        for name in ("ResNet-50, folded", "RedNet-50, folded"):
            candidates[f"{name}, compiled"] = partial(infer, torch.compile(networks[name], dynamic=False))
    return candidates


def _training_steps(batch: int, compiled: bool) -> Candidates:
    import timm
    import torchvision

    from .. import models  # noqa: F401, registers RedNet with timm

    x, labels = _images(batch), torch.zeros(batch, dtype=torch.long)

    def train(network: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        network.zero_grad()
        F.cross_entropy(call(x), labels).backward()

    networks = {"ResNet-50": torchvision.models.resnet50(), "RedNet-50": timm.create_model("rednet50")}
    candidates: Candidates = {}
    for name, network in networks.items():
        network.train().to(memory_format=torch.channels_last)
        candidates[name] = partial(train, network, network)
        if compiled:
            candidates[f"{name}, compiled"] = partial(train, network, torch.compile(network, dynamic=False))
    unfold = _by_unfold(networks["RedNet-50"])
    candidates["RedNet-50 by unfold"] = partial(train, unfold, unfold)
    return candidates


def _images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)


def _by_unfold(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Involution2d):
            module.forward = partial(_unfold_forward, module)  # type: ignore[method-assign]
    return network


def _unfold_forward(module: Involution2d, x: Tensor) -> Tensor:
    # RedNet's involutions have no projection and no bias
    return unfold_involution2d(x, module.generator(x), module.stride[0], module.kernel_size[0] // 2)


def _same(candidates: Candidates, atol: float = 1e-3) -> None:
    truth, *others = (function() for function in candidates.values())
    for other in others:
        torch.testing.assert_close(other, truth, rtol=1e-3, atol=atol)
