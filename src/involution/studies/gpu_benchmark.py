"""The GPU kernels on the layers of RedNet-50 and of a detector's neck against what else PyTorch offers; whole networks.

The kernels are called by their launchers, so that all of it also runs, in minutes for tiny layers, on a CPU under
Triton's interpreter: not to time anything, but to see that the benchmark works before a GPU is there.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from .cpu_benchmark import Target, _by_unfold
from .operator_benchmark import REDNET50, Layer
from .timing import peak_memory

Candidates = dict[str, Callable[[], Any]]
Geometry = tuple[list[int], list[int], list[int]]

UNFUSED, OUTERMOST = "span, then involution", "taps outermost"
_COMPILE_MINUTES = 1.0


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


@dataclass(frozen=True)
class Networks:
    """Two networks to compare: of timm and of torchvision, on square images."""

    rednet: str = "rednet50"
    resnet: str = "resnet50"
    size: int = 224
    batches: tuple[int, ...] = (256, 32, 1)


NETWORKS = Networks()
TINY_NETWORKS = Networks("rednet_nano", "resnet18", 32, (2,))


def run(
    problems: tuple[Problem, ...] = PROBLEMS,
    networks: Networks | None = NETWORKS,
    *,
    device: str = "cuda",
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32),
    rounds: int = 15,
    compiled: bool = True,
    minutes: float = 8.5,
) -> Iterator[dict[str, Any]]:
    """Check, then measure, what matters most first.

    Args:
        problems: Layers.
        networks: RedNet against ResNet, where timm and torchvision are there.
        device: ``cuda``, ``xpu``, or ``cpu`` under ``TRITON_INTERPRET=1``.
        dtypes: Of the layers' tensors.
        rounds: How often each candidate is timed, all in turn.
        compiled: Also torch.compile's code for the networks and for unfold.
        minutes: After so long no further measurement is begun, and a row says which are missing.

    Yields:
        A row for each candidate: milliseconds and the ratio to the base in the same round (p20, p50, p80), the share of
        a copy's bandwidth counted on the bytes that must be read and written, and the peak memory beyond the operands.
        A candidate that fails, or has no room, has a note instead.

    Raises:
        AssertionError: If a kernel computes something wrong: nothing is timed then.
    """
    end = time.monotonic() + 60 * minutes
    for problem in problems:
        for dtype in dtypes:
            check(problem, dtype, device)
            _free(device)
    if device != "cpu":
        opcheck(device)
    bandwidth = copy_bandwidth(device, rounds)
    yield {"measure": "copy", "layer": "", "candidate": "copy", "gb_per_s": round(bandwidth / 1e9, 1)}
    measurements: list[tuple[str, float, Callable[[], Iterator[dict[str, Any]]]]] = []

    def plan(name: str, function: Callable[..., Iterator[dict[str, Any]]], *args: Any, needs: float = 0) -> None:
        measurements.append((name, needs, partial(function, *args, device, rounds)))

    half = [(problem, dtypes[0]) for problem in problems]
    rest = [(problem, dtype) for dtype in dtypes[1:] for problem in problems]
    for problem, dtype in half:
        plan(f"{problem.name}, {dtype}", _layer, problem, dtype, bandwidth)
    missing = [name for name in ("timm", "torchvision") if find_spec(name) is None]
    if networks and missing:
        yield _not_measured("networks", f"{' and '.join(missing)} not installed")
    elif networks:
        for batch in networks.batches:
            for training in (False, True):
                kind = "training" if training else "inference"
                plan(f"networks, {kind}, batch {batch}", _networks, networks, batch, training, False)
    for problem, dtype in rest:
        plan(f"{problem.name}, {dtype}", _layer, problem, dtype, bandwidth)
    if compiled:
        # compiling is slow: the layers once for each stage
        for problem in problems:
            if problem.stride == 1:
                name = f"{problem.name}, compiled"
                plan(name, _compiled_layer, problem, dtypes[0], needs=_COMPILE_MINUTES / 2)
        if networks and not missing:
            for batch in networks.batches[:2]:
                for training in (False, True):
                    kind = "training" if training else "inference"
                    name = f"networks, {kind}, batch {batch}, compiled"
                    plan(name, _networks, networks, batch, training, True, needs=_COMPILE_MINUTES)
    for name, needs, measure in measurements:
        if time.monotonic() + 60 * needs > end:
            yield _not_measured(name, "no time left")
            continue
        try:
            yield from measure()
        except Exception as error:  # e.g. no memory for the operands
            yield _not_measured(name, _reason(error))
        _free(device)


def _not_measured(what: str, why: str) -> dict[str, Any]:
    return {"measure": "not measured", "layer": what, "candidate": "", "note": why}


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


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

    def generate_outermost(self) -> Tensor:
        """Generate the map with the taps outermost, as one matrix product for each image."""
        features = self.reduced.flatten(2)
        filters = self.span.flatten(0, 2).expand(features.shape[0], -1, -1)
        output = torch.baddbmm(self.bias.flatten()[None, :, None], filters, features)
        return output.view(-1, self.groups, *self.kernel_size, *self.reduced.shape[2:])

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
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2

    def close(kernel: str, found: Tensor, truth: Tensor) -> None:
        assert found.dtype == dtype
        atol = tolerance * float(truth.abs().max())
        where = f"{kernel}, {problem.name}, {dtype}"
        torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=atol, msg=lambda m: f"{where}: {m}")

    g = o.geometry
    truth = reference.shift_forward(x, weight, *g)
    close("forward", kernels.forward(o.x, o.map, *g), truth)
    close(f"forward, {OUTERMOST}", kernels.forward(o.x, o.map.contiguous(), *g), truth)
    truth = reference.shift_grad_input(dy, weight, o.input_size, *g)
    close("grad_input", kernels.grad_input(o.dy, o.map, o.input_size, *g), truth)
    rest = o.groups, o.kernel_size, *g
    close("grad_weight", kernels.grad_weight(o.dy, o.x, *rest), reference.shift_grad_weight(dy, x, *rest))
    generator = o.reduced, o.span, o.bias
    close("dynamic_forward", kernels.dynamic_forward(o.x, *generator, *g), dynamic.plain(x, reduced, span, bias, *g))
    found = kernels.dynamic_backward(o.dy, o.x, *generator, *g, [True] * 4)
    truths = dynamic.plain_backward(dy, x, reduced, span, bias, *g, [True] * 4)
    for name, one, other in zip(("input", "features", "span", "bias"), found, truths, strict=True):
        close(f"dynamic_backward, {name}", one, other)


def opcheck(device: str) -> None:
    """Run PyTorch's own checks of an operator on the operators as the device serves them."""
    o = _Operands(TINY[0], torch.float32, device, 2)
    x, w = o.x.requires_grad_(), o.map.detach().requires_grad_()
    generator, g = (o.reduced, o.span, o.bias), o.geometry
    operators = torch.ops.involution
    torch.library.opcheck(operators.involution2d.default, (x, w, *g))
    torch.library.opcheck(operators.involution2d_grad_input.default, (o.dy, w, o.input_size, *g))
    torch.library.opcheck(operators.involution2d_grad_weight.default, (o.dy, x, o.groups, o.kernel_size, *g))
    torch.library.opcheck(operators.dynamic_involution2d.default, (x, *generator, *g))
    affine = x.detach(), *generator, *g, None, None, True
    torch.library.opcheck(operators.dynamic_involution2d_affine.default, affine)
    torch.library.opcheck(operators.dynamic_involution2d_backward.default, (o.dy, x, *generator, *g, [True] * 4))


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
            # compiles, where it has to, outside of what is measured
            function()
            memory[name] = peak_memory(function)
            fits[name] = function
        except Exception as error:  # a baseline that fails is a result, too
            yield {**columns, "candidate": name, "note": _reason(error)}
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


class _Backward:
    # of a form that PyTorch derives: its graph is built by the first call and kept

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor], o: _Operands) -> None:
        self.form, self.o = form, o
        self.graph: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            if self.graph is None:
                leaves = self.o.x.detach().requires_grad_(), self.o.map.detach().requires_grad_()
                self.graph = self.form(*leaves), leaves
            out, leaves = self.graph
            return torch.autograd.grad(out, leaves, self.o.dy, retain_graph=True)


@contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _columns(problem: Problem, dtype: torch.dtype) -> dict[str, Any]:
    return {"layer": problem.name, "batch": problem.batch, "dtype": str(dtype).removeprefix("torch.")}


def _layer(
    problem: Problem, dtype: torch.dtype, bandwidth: float, device: str, rounds: int
) -> Iterator[dict[str, Any]]:
    o = _Operands(problem, dtype, device, problem.batch)
    g, stride, padding = o.geometry, problem.stride, problem.kernel_size // 2
    generator = o.reduced, o.span, o.bias
    unfold = partial(unfold_involution2d, stride=stride, padding=padding)
    depthwise = torch.randn(problem.channels, 1, 7, 7, device=device, dtype=dtype)
    dense = torch.randn(problem.channels, problem.channels, 3, 3, device=device, dtype=dtype)
    dense = dense.contiguous(memory_format=torch.channels_last)
    outermost = o.map.contiguous()

    def measured(measure: str, candidates: Candidates, work: dict[str, int]) -> Iterator[dict[str, Any]]:
        columns = {"measure": measure, **_columns(problem, dtype)}
        for row in _rows(candidates, "involution", device, rounds, columns):
            if row["candidate"] in work and "p50_ms" in row:
                row["copy_fraction"] = round(work[row["candidate"]] / row["p50_ms"] * 1e3 / bandwidth, 3)
            yield row

    def fused_by_tf32() -> Tensor:
        with _tf32():
            return kernels.dynamic_forward(o.x, *generator, *g)

    forward: Candidates = {
        "involution": lambda: kernels.forward(o.x, o.map, *g),
        OUTERMOST: lambda: kernels.forward(o.x, outermost, *g),
        UNFUSED: lambda: kernels.forward(o.x, o.generate(), *g),
        f"{UNFUSED}, {OUTERMOST}": lambda: kernels.forward(o.x, o.generate_outermost(), *g),
        "fused": lambda: kernels.dynamic_forward(o.x, *generator, *g),
        "shift and accumulate": lambda: reference.shift_forward(o.x, o.map, *g),
        "unfold": lambda: unfold(o.x, o.map),
        "depthwise 7×7": lambda: F.conv2d(o.x, depthwise, None, stride, 3, 1, problem.channels),
        "dense 3×3": lambda: F.conv2d(o.x, dense, None, stride, 1),
    }
    if dtype == torch.float32:
        forward["fused, TF32"] = fused_by_tf32
    small = o.x.nbytes + o.dy.nbytes
    work = dict.fromkeys(("involution", OUTERMOST), small + o.map.nbytes)
    with torch.inference_mode():
        yield from measured("forward", forward, {**work, "fused": small + o.reduced.nbytes + o.span.nbytes})

    def gradients(weight: Tensor) -> tuple[Tensor, Tensor]:
        return (
            kernels.grad_input(o.dy, weight, o.input_size, *g),
            kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        )

    def unfused_backward() -> tuple[Any, ...]:
        grad_x, grad_map = gradients(o.map)
        return grad_x, *o.grad_map(grad_map)

    def by_shifts() -> tuple[Tensor, Tensor]:
        return (
            reference.shift_grad_input(o.dy, o.map, o.input_size, *g),
            reference.shift_grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        )

    def convolution(filters: Tensor, padding: int, groups: int) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            o.dy, o.x, filters, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [True, True, False]
        )

    backward: Candidates = {
        "involution": lambda: gradients(o.map),
        "of input": lambda: kernels.grad_input(o.dy, o.map, o.input_size, *g),
        f"of input, {OUTERMOST}": lambda: kernels.grad_input(o.dy, outermost, o.input_size, *g),
        "of map": lambda: kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        UNFUSED: unfused_backward,
        "fused": lambda: kernels.dynamic_backward(o.dy, o.x, *generator, *g, [True] * 4),
        "shift and accumulate": by_shifts,
        "unfold": _Backward(unfold, o),
        "depthwise 7×7": lambda: convolution(depthwise, 3, problem.channels),
        "dense 3×3": lambda: convolution(dense, 1, 1),
    }
    # dy is needed by both gradients, and must be read once
    work = {
        "involution": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.map.nbytes,
        "fused": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.reduced.nbytes + 2 * o.span.nbytes,
    }
    with torch.no_grad():
        yield from measured("backward", backward, work)


def _compiled_layer(problem: Problem, dtype: torch.dtype, device: str, rounds: int) -> Iterator[dict[str, Any]]:
    o = _Operands(problem, dtype, device, problem.batch)
    g = o.geometry
    torch._dynamo.reset()
    unfold = torch.compile(
        partial(unfold_involution2d, stride=problem.stride, padding=problem.kernel_size // 2), dynamic=False
    )

    def gradients() -> tuple[Tensor, Tensor]:
        return (
            kernels.grad_input(o.dy, o.map, o.input_size, *g),
            kernels.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g),
        )

    forward: Candidates = {
        "involution": lambda: kernels.forward(o.x, o.map, *g),
        "unfold, compiled": lambda: unfold(o.x, o.map),
    }
    backward: Candidates = {"involution": gradients, "unfold, compiled": _Backward(unfold, o)}
    with torch.no_grad():
        for measure, candidates in (("forward, compiled", forward), ("backward, compiled", backward)):
            columns = {"measure": measure, **_columns(problem, dtype)}
            yield from _rows(candidates, "involution", device, rounds, columns)


def _never_fused(*_: Any) -> bool:
    return False


def _always_fused(*_: Any) -> bool:
    return True


def _networks(
    which: Networks, batch: int, training: bool, compiled: bool, device: str, rounds: int
) -> Iterator[dict[str, Any]]:
    import timm
    import torchvision

    from .. import models  # noqa: F401, registers RedNet with timm

    x = torch.randn(batch, 3, which.size, which.size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step(network: nn.Module, call: Callable[[Tensor], Tensor], fused: Callable[..., bool]) -> None:
        # which way the module goes on a GPU is decided by this measurement
        with patch("involution.nn.involution._fused_is_faster", fused):
            with torch.autocast(device, torch.bfloat16), nullcontext() if training else torch.inference_mode():
                output = call(x)
            if training:
                F.cross_entropy(output.float(), labels).backward()
                network.zero_grad()

    resnet = torchvision.models.get_model(which.resnet)
    rednet = timm.create_model(which.rednet)
    names = {which.resnet: (resnet, _never_fused), which.rednet: (rednet, _never_fused)}
    names[f"{which.rednet}, fused"] = rednet, _always_fused
    if training and not compiled:
        names[f"{which.rednet} by unfold"] = _by_unfold(rednet), _never_fused
    torch._dynamo.reset()
    candidates: Candidates = {}
    for name, (network, fused) in names.items():
        network.to(device).to(memory_format=torch.channels_last).train(training)
        call = torch.compile(network, dynamic=False) if compiled else network
        candidates[name] = partial(step, network, call, fused)
    columns = {
        "measure": ("training" if training else "inference") + (", compiled" if compiled else ""),
        "layer": "network",
        "batch": batch,
        "dtype": "bfloat16 autocast",
    }
    for row in _rows(candidates, which.resnet, device, rounds, columns):
        if "p50_ms" in row:
            row["images_per_s"] = round(batch / row["p50_ms"] * 1e3, 1)
        yield row


def summary(rows: Iterable[Mapping[str, Any]], networks: Networks = NETWORKS) -> list[Target]:
    """Compare a run's rows with the project's targets for an H200; those that were not measured are left out."""
    table = [row for row in rows if "p50_ms" in row]
    targets = []

    def figures(measure: str, over: str, under: str, key: str = "p50_ms", layers: str = "") -> list[float]:
        """Return the ratio of two candidates' figures on each layer, in the first dtype."""
        found: dict[Any, dict[str, float]] = {}
        for row in table:
            if row["measure"] == measure and row["layer"].startswith(layers) and row["dtype"].startswith("bfloat16"):
                found.setdefault((row["layer"], row["batch"]), {})[row["candidate"]] = row[key]
        return [values[over] / values[under] for values in found.values() if over in values and values.get(under)]

    def fractions(measure: str, candidate: str) -> list[float]:
        return [
            row["copy_fraction"]
            for row in table
            if (row["measure"], row["candidate"], row["layer"], row["dtype"])
            == (measure, candidate, "stage 1", "bfloat16")
        ]

    def add(name: str, values: list[float], *, least: float | None = None, most: float | None = None) -> None:
        # the weakest case decides
        if values and least is not None:
            targets.append(Target(name, f"≥ {least:g}", round(min(values), 3), min(values) >= least))
        elif values and most is not None:
            targets.append(Target(name, f"≤ {most:g}", round(max(values), 3), max(values) <= most))

    for candidate in ("involution", OUTERMOST):
        add(f"copy bandwidth, {candidate}, forward, stage 1", fractions("forward", candidate), least=0.7)
    add("copy bandwidth, involution, backward, stage 1", fractions("backward", "involution"), least=0.6)
    for measure in ("forward", "backward"):
        for stage in ("stage 1", "stage 2"):
            add(f"{UNFUSED} ÷ fused, {measure}, {stage}", figures(measure, UNFUSED, "fused", layers=stage), least=2)
        add(f"unfold ÷ involution, {measure}, weakest layer", figures(measure, "unfold", "involution"), least=30)
        compiled = figures(f"{measure}, compiled", "unfold, compiled", "involution")
        add(f"compiled unfold ÷ involution, {measure}, weakest layer", compiled, least=5)
        depthwise = figures(measure, "depthwise 7×7", "involution")
        add(f"depthwise 7×7 ÷ involution, {measure}, weakest layer", depthwise, least=1)
    for suffix in ("", ", compiled"):
        for name in (networks.rednet, f"{networks.rednet}, fused"):
            for kind, least in (("inference", 1.3), ("training", 1.0)):
                speed = figures(kind + suffix, networks.resnet, name)
                add(f"{name} ÷ {networks.resnet}, {kind} images/s{suffix}, weakest batch", speed, least=least)
            memory = figures("training" + suffix, name, networks.resnet, "peak_mb")
            add(f"{name} ÷ {networks.resnet}, training memory{suffix}, worst batch", memory, most=0.8)
    return targets
