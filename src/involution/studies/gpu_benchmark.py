"""The GPU kernels on the layers of RedNet-50 and of a detector's neck against what else PyTorch offers; whole networks.

The kernels are called by their launchers, so that all of it also runs, in minutes for tiny layers, on a CPU under
Triton's interpreter: not to time anything, but to see that the benchmark works before a GPU is there.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dynamic, reference
from ..ops import triton as kernels
from .baselines import unfold_involution2d
from .operator_benchmark import REDNET50, Layer
from .timing import peak_memory

Candidates = dict[str, Callable[[], Any]]
Geometry = tuple[list[int], list[int], list[int]]


@dataclass(frozen=True)
class Problem:
    """An involution layer on an input of height × width, and how many images."""

    name: str
    channels: int
    kernel_size: int
    height: int
    width: int
    stride: int
    batch: int


def of_layer(layer: Layer, batch: int) -> Problem:
    """Return the problem of a square layer."""
    return Problem(layer.name, layer.channels, layer.kernel_size, layer.size, layer.size, layer.stride, batch)


PROBLEMS = (*(of_layer(layer, 256) for layer in REDNET50), Problem("FPN level", 256, 7, 200, 336, 1, 2))
TINY = (Problem("tiny", 32, 3, 5, 6, 1, 2), Problem("tiny, stride 2", 32, 3, 5, 6, 2, 1))


def run(
    problems: tuple[Problem, ...] = PROBLEMS,
    *,
    device: str = "cuda",
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32),
    rounds: int = 15,
    compiled: bool = True,
    networks: bool = True,
    minutes: float = 8.5,
) -> Iterator[dict[str, Any]]:
    """Check, then measure.

    Args:
        problems: Layers.
        device: ``cuda``, ``xpu``, or ``cpu`` under ``TRITON_INTERPRET=1``.
        dtypes: Of the layers' tensors.
        rounds: How often each candidate is timed, all in turn.
        compiled: Also torch.compile's code for unfold and for the networks.
        networks: Also RedNet-50 against ResNet-50, where timm and torchvision are there.
        minutes: After so long no further measurement is begun, and a row says which are missing.

    Yields:
        A row for each candidate: milliseconds and the ratio to the base in the same round (p20, p50, p80), the share of
        a copy's bandwidth counted on the bytes that must be read and written, and the peak memory beyond the operands.

    Raises:
        AssertionError: If a kernel computes something wrong: nothing is timed then.
    """
    end = time.monotonic() + 60 * minutes
    for problem in problems:
        for dtype in dtypes:
            check(problem, dtype, device)
    if device != "cpu":
        opcheck(device)
    bandwidth = copy_bandwidth(device, rounds)
    yield {"measure": "copy", "layer": "", "candidate": "copy", "gb_per_s": round(bandwidth / 1e9, 1)}
    for dtype in dtypes:
        for problem in problems:
            if time.monotonic() > end:
                yield _missing(f"{problem.name}, {dtype}")
                continue
            # compiling is slow: for the half type, and once for each stage
            compile_it = compiled and dtype == dtypes[0] and problem.stride == 1 and problem.kernel_size == 7
            yield from _layer(problem, dtype, device, rounds, bandwidth, compile_it)
            _free(device)
    if networks:
        for name in ("timm", "torchvision"):
            if find_spec(name) is None:
                yield _missing(f"the networks, for {name} is not installed")
                return
        for training in (False, True):
            for batch in (1, 32, 256):
                if time.monotonic() > end:
                    yield _missing(f"networks, {'training' if training else 'inference'}, batch {batch}")
                    continue
                yield from _networks(batch, training, device, rounds, compiled and batch == 32)
                _free(device)


def _missing(what: str) -> dict[str, Any]:
    return {"measure": "not measured", "layer": what, "candidate": ""}


def _free(device: str) -> None:
    if device != "cpu":
        getattr(torch, device).empty_cache()


class _Operands:
    # tensors of one layer, channels_last; the map as a 1×1 convolution puts it out

    def __init__(self, problem: Problem, dtype: torch.dtype, device: str, batch: int) -> None:
        k, stride = problem.kernel_size, problem.stride
        self.groups, self.kernel_size = problem.channels // 16, [k, k]
        self.geometry: Geometry = [stride] * 2, [k // 2] * 2, [1, 1]
        self.features = problem.channels // 4
        size = [(n - 1) // stride + 1 for n in (problem.height, problem.width)]
        self.input_size = [problem.height, problem.width]
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        def image(*shape: int) -> Tensor:
            return random(*shape).contiguous(memory_format=torch.channels_last)

        self.x = image(batch, problem.channels, *self.input_size)
        self.dy = image(batch, problem.channels, *size)
        self.reduced = image(batch, self.features, *size)
        # kernels of the size that a network has
        self.span = random(self.groups, k, k, self.features) * (self.features**-0.5)
        self.bias = random(self.groups, k, k)
        self.map = self.generate()

    def generate(self) -> Tensor:
        return reference.span(self.reduced, self.span, self.bias)

    def grad_map(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of features, span and bias, from the map's, by cuDNN."""
        filters = self.span.flatten(0, 2)[:, :, None, None]
        return torch.ops.aten.convolution_backward(
            grad.flatten(1, 3),
            self.reduced,
            filters,
            [filters.shape[0]],
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [True, True, True],
        )


def check(problem: Problem, dtype: torch.dtype, device: str) -> None:
    """Compare every kernel with the plain form in float64, on two images of the layer."""
    o = _Operands(problem, dtype, device, min(2, problem.batch))

    x, dy, weight, reduced, span, bias = (t.double() for t in (o.x, o.dy, o.map, o.reduced, o.span, o.bias))

    def close(found: Tensor, truth: Tensor) -> None:
        tolerance = 1e-4 if dtype == torch.float32 else 2e-2
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=tolerance * float(truth.abs().max()))

    g = o.geometry
    close(kernels.forward(o.x, o.map, *g), reference.shift_forward(x, weight, *g))
    truth = reference.shift_grad_input(dy, weight, o.input_size, *g)
    close(kernels.grad_input(o.dy, o.map, o.input_size, *g), truth)
    rest = o.groups, o.kernel_size, *g
    close(kernels.grad_weight(o.dy, o.x, *rest), reference.shift_grad_weight(dy, x, *rest))
    generator = o.reduced, o.span, o.bias
    close(kernels.dynamic_forward(o.x, *generator, *g), dynamic.plain(x, reduced, span, bias, *g))
    found = kernels.dynamic_backward(o.dy, o.x, *generator, *g, [True] * 4)
    truths = dynamic.plain_backward(dy, x, reduced, span, bias, *g, [True] * 4)
    for one, other in zip(found, truths, strict=True):
        close(one, other)


def opcheck(device: str) -> None:
    """Run PyTorch's own checks of an operator on the operators as the device serves them."""
    o = _Operands(TINY[0], torch.float32, device, 2)
    x, w = o.x.requires_grad_(), o.map.detach().requires_grad_()
    operators = torch.ops.involution
    torch.library.opcheck(operators.involution2d.default, (x, w, *o.geometry))
    torch.library.opcheck(operators.dynamic_involution2d.default, (x, o.reduced, o.span, o.bias, *o.geometry))


def copy_bandwidth(device: str, rounds: int) -> float:
    """Return bytes a second, read and written, of copying a large tensor."""
    source = torch.empty(2**28 if device != "cpu" else 2**22, device=device)
    target = torch.empty_like(source)
    times = _times({"copy": partial(target.copy_, source)}, device, rounds)["copy"]
    return 2 * source.nbytes / statistics.median(times) * 1e3


def _times(candidates: Mapping[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each call, all candidates in turn; on a GPU by its own clock, with a cold L2 cache."""
    for function in candidates.values():
        for _ in range(2):
            function()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    if device == "cpu":
        for _ in range(rounds):
            for name, function in candidates.items():
                start = time.perf_counter()
                function()
                samples[name].append((time.perf_counter() - start) * 1e3)
        return samples
    runtime = getattr(torch, device)
    flush = torch.empty(2**26, device=device)
    events: list[tuple[str, Any, Any]] = []
    for _ in range(rounds):
        for name, function in candidates.items():
            start, stop = runtime.Event(enable_timing=True), runtime.Event(enable_timing=True)
            # clears the cache and keeps the device busy while the host runs ahead
            for _ in range(10):
                flush.zero_()
            start.record()
            function()
            stop.record()
            events.append((name, start, stop))
        runtime.synchronize()
    for name, start, stop in events:
        samples[name].append(start.elapsed_time(stop))
    return samples


def _rows(
    candidates: Candidates, base: str, device: str, rounds: int, columns: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    fits, memory = {}, {}
    for name, function in candidates.items():
        try:
            memory[name] = peak_memory(function)
            fits[name] = function
        except torch.OutOfMemoryError:
            yield {**columns, "candidate": name, "note": "out of memory"}
        _free(device)
    samples = _times(fits, device, rounds)
    for name, times in samples.items():
        row = {**columns, "candidate": name, "base": base, "peak_mb": round(memory[name] / 1e6, 1)}
        ratios = [a / b for a, b in zip(times, samples[base], strict=True)] if base in samples else []
        for suffix, values in (("ms", times), ("ratio", ratios)):
            if values:
                cuts = statistics.quantiles(values, n=10, method="inclusive")
                row |= {f"p{10 * i + 10}_{suffix}": round(cuts[i], 4) for i in (1, 4, 7)}
        yield row


def _layer(
    problem: Problem, dtype: torch.dtype, device: str, rounds: int, bandwidth: float, compiled: bool
) -> Iterator[dict[str, Any]]:
    o = _Operands(problem, dtype, device, problem.batch)
    g, stride, padding = o.geometry, problem.stride, problem.kernel_size // 2
    generator = o.reduced, o.span, o.bias
    columns = {"layer": problem.name, "batch": problem.batch, "dtype": str(dtype).removeprefix("torch.")}
    depthwise = torch.randn(problem.channels, 1, 7, 7, device=device, dtype=dtype)
    dense = torch.randn(problem.channels, problem.channels, 3, 3, device=device, dtype=dtype)
    dense = dense.contiguous(memory_format=torch.channels_last)

    def shares(rows: Iterator[dict[str, Any]], work: dict[str, int]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["candidate"] in work and "p50_ms" in row:
                row["copy_fraction"] = round(work[row["candidate"]] / row["p50_ms"] * 1e3 / bandwidth, 3)
            yield row

    def unfused() -> Tensor:
        return kernels.forward(o.x, o.generate(), *g)

    forward: Candidates = {
        "involution": lambda: kernels.forward(o.x, o.map, *g),
        "span, then involution": unfused,
        "fused": lambda: kernels.dynamic_forward(o.x, *generator, *g),
        "shift and accumulate": lambda: reference.shift_forward(o.x, o.map, *g),
        "unfold": lambda: unfold_involution2d(o.x, o.map, stride, padding),
        "depthwise 7×7": lambda: F.conv2d(o.x, depthwise, None, stride, 3, 1, problem.channels),
        "dense 3×3": lambda: F.conv2d(o.x, dense, None, stride, 1),
    }
    if compiled:
        torch._dynamo.reset()
        forward["unfold, compiled"] = partial(
            torch.compile(unfold_involution2d, dynamic=False), o.x, o.map, stride, padding
        )
    small = o.x.nbytes + o.dy.nbytes
    work = {"involution": small + o.map.nbytes, "fused": small + o.reduced.nbytes + o.span.nbytes}
    with torch.inference_mode():
        yield from shares(_rows(forward, "involution", device, rounds, {"measure": "forward", **columns}), work)

    def gradients() -> tuple[Tensor, Tensor]:
        return (
            kernels.grad_input(o.dy, o.map, o.input_size, *g),
            kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        )

    def unfused_backward() -> tuple[Any, ...]:
        weight = o.map
        grad_x = kernels.grad_input(o.dy, weight, o.input_size, *g)
        return grad_x, *o.grad_map(kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g))

    def convolution(filters: Tensor, padding: int, groups: int) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            o.dy, o.x, filters, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [True, True, False]
        )

    backward: Candidates = {
        "involution": gradients,
        "of input": lambda: kernels.grad_input(o.dy, o.map, o.input_size, *g),
        "of map": lambda: kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        "span and involution": unfused_backward,
        "fused": lambda: kernels.dynamic_backward(o.dy, o.x, *generator, *g, [True] * 4),
        "depthwise 7×7": lambda: convolution(depthwise, 3, problem.channels),
        "dense 3×3": lambda: convolution(dense, 1, 1),
    }
    # dy is needed by both gradients, and must be read once
    work = {
        "involution": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.map.nbytes,
        "fused": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.reduced.nbytes + 2 * o.span.nbytes,
    }
    with torch.inference_mode():
        yield from shares(_rows(backward, "involution", device, rounds, {"measure": "backward", **columns}), work)
    leaves = o.x.clone().requires_grad_(), o.map.clone().requires_grad_()

    def both(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(form(*leaves, stride=stride, padding=padding), leaves, o.dy)

    def ours() -> tuple[Tensor, ...]:
        return kernels.forward(o.x, o.map, *g), *gradients()

    together: Candidates = {"involution": ours, "unfold": partial(both, unfold_involution2d)}
    if compiled:
        together["unfold, compiled"] = partial(both, torch.compile(unfold_involution2d, dynamic=False))
    yield from _rows(together, "involution", device, rounds, {"measure": "forward+backward", **columns})


def _networks(batch: int, training: bool, device: str, rounds: int, compiled: bool) -> Iterator[dict[str, Any]]:
    import timm
    import torchvision

    from .. import models  # noqa: F401, registers RedNet with timm

    x = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step(network: nn.Module, call: Callable[[Tensor], Tensor], fused: bool) -> None:
        # which way the module goes on a GPU is to be decided by this measurement
        choice = patch("involution.nn.involution._fused_is_faster", lambda *_: True) if fused else nullcontext()
        with choice, torch.autocast(device, torch.bfloat16), nullcontext() if training else torch.inference_mode():
            output = call(x)
        if training:
            network.zero_grad()
            F.cross_entropy(output.float(), labels).backward()

    candidates: Candidates = {}
    for name, make in (
        ("ResNet-50", torchvision.models.resnet50),
        ("RedNet-50", partial(timm.create_model, "rednet50")),
    ):
        network = make().to(device).to(memory_format=torch.channels_last).train(training)
        candidates[name] = partial(step, network, network, False)
        if name == "RedNet-50":
            candidates["RedNet-50, fused"] = partial(step, network, network, True)
        if compiled:
            torch._dynamo.reset()
            candidates[f"{name}, compiled"] = partial(step, network, torch.compile(network, dynamic=False), False)
    columns = {
        "measure": "training" if training else "inference",
        "layer": "network",
        "batch": batch,
        "dtype": "bfloat16 autocast",
    }
    for row in _rows(candidates, "ResNet-50", device, rounds, columns):
        if "p50_ms" in row:
            row["images_per_s"] = round(batch / row["p50_ms"] * 1e3, 1)
        yield row
