"""The GPU kernels on the layers of RedNet-50 and of a detector's neck against what else PyTorch offers; networks.

The kernels are called by their launchers, so that all of it also runs, in seconds for tiny layers, on a CPU under
Triton's interpreter: not to time anything, but to see that the suite works before a GPU is there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from involution.ops import cuda, dynamic, reference, triton
from involution.ops.backends import choose_fused
from involution.studies.baselines import unfold_involution2d
from involution.studies.errors import StudyError
from involution.studies.harness import (
    Measurement,
    Options,
    Row,
    Suite,
    Target,
    interleaved,
    measure,
    ratios,
    target,
)
from involution.studies.workloads import (
    NETWORKS,
    REDNET50,
    TINY_NETWORKS,
    Layer,
    Networks,
    by_unfold,
)

Candidates = dict[str, Callable[[], Any]]
Geometry = tuple[list[int], list[int], list[int]]

UNFUSED, OUTERMOST = "span, then involution", "taps outermost"
_DTYPES = (torch.bfloat16, torch.float32)
_COMPILE_MINUTES = 1.0


# the fastest that are here; where there is no GPU, Triton's interpreter runs its kernels
kernels: Any = cuda if torch.cuda.is_available() and cuda.absence is None else triton


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


@dataclass
class _Session:
    # how everything is measured; the bandwidth is known once it was measured
    device: str
    rounds: int
    bandwidth: float = 0.0

    def measure(self, candidates: Candidates, base: str, **columns: Any) -> Iterator[Row]:
        return measure(candidates, base, device=self.device, rounds=self.rounds, seconds=0, **columns)


def plan(
    options: Options,
    problems: Sequence[Problem] | None = None,
    dtypes: Sequence[torch.dtype] = _DTYPES,
) -> Iterator[Measurement]:
    """Yield the checks of all kernels, whose failing ends the run, then the measurements.

    Args:
        options: With their parts filled in.
        problems: Layers; RedNet-50's and a neck's by default, tiny ones in a dry run.
        dtypes: Of the layers' tensors.

    Raises:
        StudyError: Without a GPU, unless it is a dry run.
    """
    device = _device(options.dry_run)
    session = _Session(device, options.rounds or (2 if options.dry_run else 7 if options.quick else 15))
    networks = TINY_NETWORKS if options.dry_run else NETWORKS
    problems = (problems or (TINY if options.dry_run else PROBLEMS)) if "operator" in options.parts else ()
    for problem in problems:
        for dtype in dtypes:
            yield Measurement(f"checks, {problem.name}, {dtype}", partial(_checked, check, problem, dtype, device))
    if device != "cpu":
        yield Measurement("checks, opcheck", partial(_checked, opcheck, device))
    yield Measurement("copy", partial(_copy, session))
    for problem in problems:
        yield Measurement(f"{problem.name}, {dtypes[0]}", partial(_layer, problem, dtypes[0], session))
    modes = ("inference", "training") if "networks" in options.parts else ()
    for batch in options.batches or networks.batches:
        for mode in modes:
            rows = partial(_networks, networks, batch, mode, False, session)
            yield Measurement(f"networks, {mode}, batch {batch}", rows)
        for graph in (False, True) if "networks" in options.parts and device != "xpu" else ():
            name = "CUDA graph" if graph else "optimised"
            if not graph or device == "cuda":
                rows = partial(_optimised, networks, batch, graph, session)
                yield Measurement(f"networks, {name}, batch {batch}", rows)
    for dtype in dtypes[1:]:
        for problem in problems:
            yield Measurement(f"{problem.name}, {dtype}", partial(_layer, problem, dtype, session))
    if not options.compiled:
        return
    # compiling is slow: the layers once for each stage
    for problem in problems:
        if problem.stride == 1:
            rows = partial(_compiled_layer, problem, dtypes[0], session)
            yield Measurement(f"{problem.name}, compiled", rows, _COMPILE_MINUTES / 2)
    for mode in modes:
        for batch in (options.batches or networks.batches)[:2]:
            rows = partial(_networks, networks, batch, mode, True, session)
            yield Measurement(f"networks, {mode}, batch {batch}, compiled", rows, _COMPILE_MINUTES)


def _device(dry_run: bool) -> str:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type in ("cuda", "xpu"):
        return accelerator.type
    if not dry_run:
        raise StudyError("the gpu suite wants a GPU that torch can use, and there is none; --dry-run needs none")
    return "cpu"


def _checked(check: Callable[..., None], *args: Any) -> Iterator[Row]:
    check(*args)
    yield from ()


def _copy(session: _Session) -> Iterator[Row]:
    session.bandwidth = copy_bandwidth(session.device, session.rounds)
    gb_per_s = round(session.bandwidth / 1e9, 1)
    yield {"measure": "copy", "layer": "", "candidate": "copy", "gb_per_s": gb_per_s}


class Operands:
    """Tensors of one layer, channels_last; the map as a 1×1 convolution puts it out."""

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
        """Generate the map as the module does."""
        return reference.span(self.reduced, self.span, self.bias)

    def generate_outermost(self) -> Tensor:
        """Generate the map with the taps outermost, as one matrix product for each image."""
        features = self.reduced.flatten(2)
        filters = self.span.flatten(0, 2).expand(features.shape[0], -1, -1)
        output = torch.baddbmm(self.bias.flatten()[None, :, None], filters, features)
        return output.view(-1, self.groups, *self.kernel_size, *self.reduced.shape[2:])

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Compute the gradients of input and map by the kernels."""
        return (
            kernels.grad_input(self.dy, self.map, self.input_size, *self.geometry),
            kernels.grad_weight(self.dy, self.x, self.groups, self.kernel_size, *self.geometry),
        )

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
    o = Operands(problem, dtype, device, min(2, problem.batch))
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
    o = Operands(TINY[0], torch.float32, device, 2)
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
    copy = torch.empty_like(source)
    times = interleaved({"copy": partial(copy.copy_, source)}, seconds=0, rounds=rounds, device=device)["copy"]
    return 2 * source.nbytes / statistics.median(times) * 1e3


class _Backward:
    # of a form that PyTorch derives: its graph is built by the first call and kept

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor], o: Operands) -> None:
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


def _layer(problem: Problem, dtype: torch.dtype, session: _Session) -> Iterator[Row]:
    device = session.device
    o = Operands(problem, dtype, device, problem.batch)
    g, stride, padding = o.geometry, problem.stride, problem.kernel_size // 2
    generator = o.reduced, o.span, o.bias
    unfold = partial(unfold_involution2d, stride=stride, padding=padding)
    depthwise = torch.randn(problem.channels, 1, 7, 7, device=device, dtype=dtype)
    dense = torch.randn(problem.channels, problem.channels, 3, 3, device=device, dtype=dtype)
    dense = dense.contiguous(memory_format=torch.channels_last)
    outermost = o.map.contiguous()

    def measured(name: str, candidates: Candidates, work: dict[str, int]) -> Iterator[Row]:
        for row in session.measure(candidates, "involution", measure=name, **_columns(problem, dtype)):
            if row["candidate"] in work and "p50_ms" in row:
                row["copy_fraction"] = round(work[row["candidate"]] / row["p50_ms"] * 1e3 / session.bandwidth, 3)
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
    if kernels is not triton:
        forward["involution, Triton"] = lambda: triton.forward(o.x, o.map, *g)
        forward["fused, Triton"] = lambda: triton.dynamic_forward(o.x, *generator, *g)
    small = o.x.nbytes + o.dy.nbytes
    work = dict.fromkeys(("involution", OUTERMOST), small + o.map.nbytes)
    with torch.inference_mode():
        yield from measured("forward", forward, {**work, "fused": small + o.reduced.nbytes + o.span.nbytes})

    def unfused_backward() -> tuple[Any, ...]:
        grad_x, grad_map = o.gradients()
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
        "involution": o.gradients,
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
    if kernels is not triton:
        backward["of input, Triton"] = lambda: triton.grad_input(o.dy, o.map, o.input_size, *g)
        backward["of map, Triton"] = lambda: triton.grad_weight(o.dy, o.x, o.groups, o.kernel_size, *g)
        backward["fused, Triton"] = lambda: triton.dynamic_backward(o.dy, o.x, *generator, *g, [True] * 4)
    # dy is needed by both gradients, and must be read once
    work = {
        "involution": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.map.nbytes,
        "fused": 2 * o.x.nbytes + o.dy.nbytes + 2 * o.reduced.nbytes + 2 * o.span.nbytes,
    }
    with torch.no_grad():
        yield from measured("backward", backward, work)


def _compiled_layer(problem: Problem, dtype: torch.dtype, session: _Session) -> Iterator[Row]:
    o = Operands(problem, dtype, session.device, problem.batch)
    g = o.geometry
    torch._dynamo.reset()
    unfold = torch.compile(
        partial(unfold_involution2d, stride=problem.stride, padding=problem.kernel_size // 2), dynamic=False
    )

    forward: Candidates = {
        "involution": lambda: kernels.forward(o.x, o.map, *g),
        "unfold, compiled": lambda: unfold(o.x, o.map),
    }
    backward: Candidates = {"involution": o.gradients, "unfold, compiled": _Backward(unfold, o)}
    with torch.no_grad():
        for name, candidates in (("forward, compiled", forward), ("backward, compiled", backward)):
            yield from session.measure(candidates, "involution", measure=name, **_columns(problem, dtype))


def _networks(which: Networks, batch: int, mode: str, compiled: bool, session: _Session) -> Iterator[Row]:
    device, training = session.device, mode == "training"
    x = which.images(batch, device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step(network: nn.Module, call: Callable[[Tensor], Tensor], fused: bool) -> None:
        # which way a module goes on a GPU by itself is decided by this measurement
        with choose_fused(fused):
            with torch.autocast(device, torch.bfloat16), nullcontext() if training else torch.inference_mode():
                output = call(x)
            if training:
                F.cross_entropy(output.float(), labels).backward()
                network.zero_grad()

    built = which.build()
    rednet, resnet = which.rednet[1], which.resnet[1]
    ways = {resnet: (built[resnet], False), f"{rednet}, fused": (built[rednet], True)}
    if not compiled:
        ways[rednet] = built[rednet], False
    if training and not compiled:
        ways[f"{rednet} by unfold"] = by_unfold(built[rednet]), False
    torch._dynamo.reset()
    candidates: Candidates = {}
    for name, (network, fused) in ways.items():
        network.to(device).train(training)
        call = torch.compile(network, dynamic=False) if compiled else network
        candidates[name] = partial(step, network, call, fused)
    columns = {"layer": "network", "batch": batch, "dtype": "bfloat16 autocast"}
    for row in session.measure(candidates, resnet, measure=mode + (", compiled" if compiled else ""), **columns):
        if "p50_ms" in row:
            row["images_per_s"] = round(batch / row["p50_ms"] * 1e3, 1)
        yield row


def _optimised(which: Networks, batch: int, graph: bool, session: _Session) -> Iterator[Row]:
    # as one would deploy them: folded, in bfloat16, each convolution with what follows it
    from involution.models import optimize_for_inference

    x = which.images(batch, session.device).bfloat16()
    built = which.build()
    candidates: Candidates = {}
    for name in (which.resnet[1], which.rednet[1]):
        network = built[name].to(session.device).eval()
        optimize_for_inference(network)
        candidates[name] = _captured(network.bfloat16(), x) if graph else partial(network.bfloat16(), x)
    measure = "inference, " + ("CUDA graph" if graph else "optimised")
    columns = {"measure": measure, "layer": "network", "batch": batch, "dtype": "bfloat16"}
    with torch.inference_mode():
        for row in session.measure(candidates, which.resnet[1], **columns):
            if "p50_ms" in row:
                row["images_per_s"] = round(batch / row["p50_ms"] * 1e3, 1)
            yield row


def _captured(network: nn.Module, x: Tensor) -> Callable[[], Any]:
    # its memory is the graph's own, which no allocator counts
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.inference_mode():
        for _ in range(3):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        network(x)
    return graph.replay


def targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets for an H200; the weakest layer or batch decides."""
    found: list[Target] = []
    half = [row for row in rows if row.get("dtype", "").startswith("bfloat16")]

    def fractions(measure: str, candidate: str) -> list[float]:
        where = measure, candidate, "stage 1", "bfloat16"
        return [
            row["copy_fraction"]
            for row in half
            if (row["measure"], row["candidate"], row["layer"], row["dtype"]) == where and "copy_fraction" in row
        ]

    worst = partial(target, worst=True)
    for candidate in ("involution", OUTERMOST):
        found += worst(f"copy bandwidth, {candidate}, forward, stage 1", fractions("forward", candidate), least=0.7)
    found += worst("copy bandwidth, involution, backward, stage 1", fractions("backward", "involution"), least=0.6)
    for kind in ("forward", "backward"):
        for stage in ("stage 1", "stage 2"):
            some = [row for row in half if row["layer"].startswith(stage)]
            found += worst(f"{UNFUSED} ÷ fused, {kind}, {stage}", ratios(some, kind, UNFUSED, "fused"), least=2)
        unfold = ratios(half, kind, "unfold", "involution")
        found += worst(f"unfold ÷ involution, {kind}, weakest layer", unfold, least=30)
        compiled = ratios(half, f"{kind}, compiled", "unfold, compiled", "involution")
        found += worst(f"compiled unfold ÷ involution, {kind}, weakest layer", compiled, least=5)
        depthwise = ratios(half, kind, "depthwise 7×7", "involution")
        found += worst(f"depthwise 7×7 ÷ involution, {kind}, weakest layer", depthwise, least=1)
    rednet, resnet = NETWORKS.rednet[1], NETWORKS.resnet[1]
    for suffix in ("", ", compiled", ", optimised", ", CUDA graph"):
        # compiled and optimised networks go one way alone
        for name in (rednet, f"{rednet}, fused"):
            for kind, least in (("inference", 1.3), ("training", 1.0)):
                speed = ratios(half, kind + suffix, resnet, name)
                found += worst(f"{resnet} ÷ {name}, {kind} time{suffix}, weakest batch", speed, least=least)
            memory = ratios(half, "training" + suffix, name, resnet, "peak_bytes")
            found += worst(f"{name} ÷ {resnet}, training memory{suffix}, worst batch", memory, most=0.8)
    return found


SUITE = Suite(("operator", "networks"), plan, targets, minutes=(30, 1))
