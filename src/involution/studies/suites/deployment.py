"""RedNet-50 against ResNet-50 in what serves networks: PyTorch, and the files of `involution export` in their runtimes.

Both networks go the same way: norms folded, written by the same format, run by the same runtime on as many threads, in
turn. What a file computes is compared with PyTorch before it is timed. Weights and the norms' statistics are random.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from involution.export.graph import Graph, Input, Run
from involution.export.pixels import Dense
from involution.export.registry import Settings, get_format, get_task
from involution.studies.harness import Measurement, Options, Row, Suite, Target, measure, ratios, target
from involution.studies.suites.detection import counterpart, make_confident
from involution.studies.workloads import NETWORKS, TINY_NETWORKS, Networks

REDNET, RESNET = "RedNet", "ResNet"
STANDARD = ", standard operators"


@dataclass(frozen=True)
class _File:
    """A file of `involution export`.

    Attributes:
        network: whose.
        format: its format.
        settings: of the export.
        suffix: added to the network's name.
        runtime: the format whose runtime runs it, if not its own.
        int8: whether it is quantised to 8 bits.
    """

    network: str
    format: str
    settings: Settings = field(default_factory=Settings)
    suffix: str = ""
    runtime: str | None = None
    int8: bool = False


_TITLES = {
    "eager": "PyTorch",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "int8": "8 bits",
    "aoti": "AOTInductor",
    "compiled": "compile_for_inference",
    "detection": "Faster R-CNN",
}
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
# parts that measure in each of these
_RUNTIMES = {"int8": ("onnx", "openvino"), "detection": ("onnx", "openvino")}
# of each runtime, the base first
_FILES = {
    "onnx": (
        _File(RESNET, "onnx"),
        _File(REDNET, "onnx", Settings(operators="library")),
        _File(REDNET, "onnx", suffix=STANDARD),
    ),
    "openvino": (
        _File(RESNET, "openvino"),
        _File(REDNET, "openvino"),
        _File(REDNET, "onnx", suffix=STANDARD, runtime="openvino"),
    ),
    "aoti": (_File(RESNET, "aoti"), _File(REDNET, "aoti")),
}
# seconds: threads of ONNX Runtime go on spinning for 35 to 50 ms after a call, on a core that the next session wants
_PAUSE = 0.1
# photographs' crops that 8 bits are calibrated on
_CROPS = 6
# the least correlation of their logits with PyTorch's
_ALIKE = 0.9
# minutes that a part takes at least, of which most is compiling
_MINUTES = {"eager": 0.6, "onnx": 1.2, "openvino": 1.2, "int8": 2.0, "aoti": 2.0, "compiled": 2.5, "detection": 2.0}


@dataclass(frozen=True)
class _Candidate:
    call: Callable[[Tensor], Tensor]
    columns: Row


def _plan(options: Options) -> Iterator[Measurement]:
    small = options.quick or options.dry_run
    settings = options.filled(
        batches=(1,) if small else (1, 8), seconds=0 if small else 8.0, rounds=2 if options.dry_run else 7
    )
    which = replace(TINY_NETWORKS if options.dry_run else NETWORKS, other=None)
    for part in settings.parts:
        minutes = 0 if options.dry_run else _MINUTES[part]
        for runtime in _RUNTIMES.get(part, ()):
            rows = (
                partial(_detectors, runtime, options.dry_run, settings)
                if part == "detection"
                else partial(_rows, runtime, which, settings, int8=True)
            )
            yield Measurement(f"{part}, {runtime}", rows, minutes)
        if part not in _RUNTIMES:
            yield Measurement(part, partial(_rows, part, which, settings), minutes)


def _rows(part: str, which: Networks, settings: Any, int8: bool = False) -> Iterator[Row]:
    networks = _folded(which)
    with _candidates(part, networks, which, int8) as candidates:
        for batch in settings.batches:
            images = which.images(batch)
            if part in _FILES:
                # as their input is, or each call would copy it
                images = images.contiguous()
            columns = {name: _runtime(part) | found.columns for name, found in candidates.items()}
            for name, found in candidates.items():
                seconds = _first_call(found, networks[_of(name)], images, exactly=not int8)
                if part == "compiled":
                    columns[name]["made_s"] = round(seconds, 1)
            calls = {name: partial(found.call, images) for name, found in candidates.items()}
            title = f"{_TITLES[part]}, {_TITLES['int8']}" if int8 else _TITLES[part]
            what = {"measure": title, "layer": "network", "batch": batch}
            yield from _timed(calls, which.resnet[1], columns, settings, **what)


def _runtime(part: str) -> Row:
    return {"runtime": f"{_PACKAGES[part]} {version(_PACKAGES[part])}"} if part in _PACKAGES else {}


def _timed(
    calls: Mapping[str, Callable[[], Any]], base: str, columns: Mapping[str, Row], settings: Any, **what: Any
) -> Iterator[Row]:
    some = {"seconds": settings.seconds, "rounds": settings.rounds}
    for row in measure(calls, base, warm=True, pause=_PAUSE, **some, **what):
        # other runtimes' memory is not seen
        row.pop("peak_bytes", None)
        yield {**row, **columns[row["candidate"]]}


def _folded(which: Networks) -> dict[str, nn.Module]:
    from involution import models

    networks = which.build()
    for network in networks.values():
        _enliven(network)
        models.fuse(network.eval())
    return networks


def _enliven(network: nn.Module) -> None:
    """Give norms weights and statistics as trained ones have: a fresh network's branches end in zeros."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            statistics = dict(module.named_buffers())
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.normal_(statistics["running_mean"], 0, 0.1)
            nn.init.uniform_(statistics["running_var"], 0.5, 2)


def _of(candidate: str) -> str:
    return candidate.split(",")[0]


def _first_call(candidate: _Candidate, network: nn.Module, images: Tensor, exactly: bool = True) -> float:
    """Compare with PyTorch; returns the seconds that the first call took."""
    start = time.perf_counter()
    found = candidate.call(images)
    seconds = time.perf_counter() - start
    wanted = _infer(network, images)
    if not exactly:
        alike = float(torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1])
        if not alike > _ALIKE:
            raise AssertionError(f"a file of 8 bits does not find what PyTorch does: correlation {alike:.3f}")
        return seconds
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    return seconds


@contextmanager
def _candidates(
    part: str, networks: Mapping[str, nn.Module], which: Networks, int8: bool
) -> Iterator[dict[str, _Candidate]]:
    if part == "eager":
        yield {name: _Candidate(partial(_infer, network), {}) for name, network in networks.items()}
    elif part == "compiled":
        from torch._inductor.utils import fresh_cache

        from involution.models import compile_for_inference

        # the time to compile is that of the first time
        with fresh_cache():
            torch._dynamo.reset()
            yield {
                name: _Candidate(compile_for_inference(network, dynamic=False), {})
                for name, network in networks.items()
            }
    else:
        names = {RESNET: which.resnet[1], REDNET: which.rednet[1]}
        files = [replace(file, int8=int8) for file in _FILES[part] if not (int8 and file.suffix)]
        with tempfile.TemporaryDirectory(prefix="involution-bench-") as folder:
            yield {
                names[file.network] + file.suffix: _from_file(
                    file, networks[names[file.network]], which.size, Path(folder) / str(number)
                )
                for number, file in enumerate(files)
            }


def _infer(network: nn.Module, *inputs: Any) -> Any:
    with torch.inference_mode():
        return network(*inputs)


def _from_file(file: _File, network: nn.Module, size: int, folder: Path) -> _Candidate:
    graph = Graph(Dense(network, None), (Input("images", torch.rand(2, 3, size, size), {0: "batch"}),), ("logits",))
    if file.int8:
        file = replace(file, settings=replace(file.settings, int8=_crops(size)))
    run, columns = _write(file, graph, folder)
    return _Candidate(lambda images: run([images])[0], columns)


def _crops(size: int) -> list[tuple[Tensor]]:
    """Parts of photographs, about as images are normalised."""
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).permute(2, 0, 1).float() for image in load_sample_images().images]
    places = torch.randint(0, 427 - size, (_CROPS, 2), generator=torch.Generator().manual_seed(0)).tolist()
    found = [photographs[i % 2][:, y : y + size, x : x + size] for i, (y, x) in enumerate(places)]
    return [((one[None] - 120) / 58,) for one in found]


def _write(file: _File, graph: Graph, folder: Path) -> tuple[Run, Row]:
    """Write a file and load it; returns what runs it, and its size and the seconds that it took."""
    chosen = get_format(file.format)
    chosen.require(True)
    folder.mkdir()
    path = folder / f"model{chosen.suffix}"
    start = time.perf_counter()
    chosen.write(graph, "{}", path, file.settings)
    seconds = time.perf_counter() - start
    places = [path, *(path.with_suffix(suffix) for suffix in chosen.beside)]
    columns = {"made_s": round(seconds, 1), "megabytes": round(sum(one.stat().st_size for one in places) / 1e6, 1)}
    if file.runtime == "openvino":
        import openvino

        path, model = path.with_suffix(".xml"), openvino.Core().read_model(path)
        openvino.save_model(model, path, compress_to_fp16=False)
    return get_format(file.runtime or file.format).load(path), columns


def _detectors(part: str, small: bool, settings: Any) -> Iterator[Row]:
    """Faster R-CNN with the published neck and head of involutions, and torchvision's."""
    from involution.export.detectors import DetectorGraph

    height, width = (128, 160) if small else (800, 1344)
    image, size = torch.rand(1, 3, height, width), torch.tensor([height, width])
    networks = _folded_detectors(image, small)
    calls, columns = {}, {}
    with tempfile.TemporaryDirectory(prefix="involution-bench-") as folder:
        for file in _FILES[part][:2]:
            name = {RESNET: NETWORKS.resnet[1], REDNET: NETWORKS.rednet[1]}[file.network]
            module = DetectorGraph(networks[file.network]).eval()
            graph = Graph(module, (Input("images", image), Input("size", size)), ("boxes", "scores", "labels"))
            run, columns[name] = _write(file, graph, Path(folder) / file.network)
            columns[name] |= _runtime(part)
            _same_boxes(run([image, size]), _infer(module, image, size))
            calls[name] = partial(run, [image, size])
        what = {"measure": f"Faster R-CNN, {_TITLES[part]}", "layer": f"{height}×{width}", "batch": 1}
        yield from _timed(calls, NETWORKS.resnet[1], columns, settings, **what)


def _folded_detectors(image: Tensor, small: bool) -> dict[str, nn.Module]:
    from involution import detection, models

    limits = {"min_size": min(image.shape[2:]), "max_size": max(image.shape[2:])}
    torch.manual_seed(0)
    ours: dict[str, Any] = {"neck": "involution", "head": "involution", **limits}
    networks = {
        RESNET: counterpart("faster_rcnn", limits),
        REDNET: detection.faster_rcnn(80, "rednet26_stem7" if small else "rednet50_stem7", **ours),
    }
    for network in networks.values():
        _enliven(network)
        make_confident(network)
        models.fuse(network.eval())
        # what its RoIAlign knows of the levels it learns from the first image
        _infer(network, list(image))
    return networks


def _same_boxes(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    difference, most, words = get_task("detect").agreement([wanted], [found], False)
    if not difference <= most:
        raise AssertionError(f"a file does not find what PyTorch does: {words}")


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets."""
    rednet, resnet = NETWORKS.rednet[1], NETWORKS.resnet[1]
    found: list[Target] = []
    for title, suffix, *most in _MOST:
        for batch, limit in zip((1, 8), most, strict=True):
            some = ratios([row for row in rows if row.get("batch") == batch], title, rednet + suffix, resnet)
            found += target(f"{rednet}{suffix} ÷ {resnet}, {title}, batch {batch}", some, most=limit)
    return found


_MOST = (
    ("AOTInductor", "", 0.78, 0.72),
    ("ONNX Runtime", "", 0.72, 0.72),
    ("ONNX Runtime", STANDARD, 1.4, 1.4),
    ("OpenVINO", "", 0.68, 0.68),
    ("ONNX Runtime, 8 bits", "", 0.95, 0.95),
    ("OpenVINO, 8 bits", "", 0.95, 0.95),
)

SUITE = Suite(tuple(_TITLES), _plan, _targets, minutes=(6, 2), on_cpu=True)
