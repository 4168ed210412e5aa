"""Exporting a trained network: fold, trace, write, run what was written, compare, and only then put it in its place."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from involution import __version__
from involution.engine.files import Origin, atomic_path, check_output, made_of, network_origin
from involution.engine.loading import load
from involution.engine.predictor import Predictor
from involution.engine.task import get_task as engine_task
from involution.export.calibration import (
    Labelled,
    Pictures,
    find_labelled,
    find_pictures,
    graph_inputs,
    measured,
)
from involution.export.check import milliseconds, real_images
from involution.export.errors import ExportError
from involution.export.graph import Graph, input_shapes
from involution.export.load import is_exported, predictor_of
from involution.export.metadata import FLOAT32, IMAGES, WEIGHTS, Metadata, preprocessing
from involution.export.registry import Format, Settings, TaskExport, formats, get_format, get_task
from involution.models.fuse import fuse
from involution.models.weights import named

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Exported:
    """A file that was written, run and compared with PyTorch.

    Attributes:
        file: the file.
        metadata: what it says of itself.
        megabytes: its size, with what is beside it.
        difference: the largest absolute difference to PyTorch's outputs: of probabilities, of a detector's boxes in
            pixels.
        found: what was compared, in words.
        milliseconds: of a call of its network with one image, median.
        milliseconds_torch: of PyTorch's folded network.
        remark: what else is to be said, or nothing.
    """

    file: Path
    metadata: Metadata
    megabytes: float
    difference: float
    found: str
    milliseconds: float
    milliseconds_torch: float
    remark: str = ""

    def __str__(self) -> str:
        """One line."""
        said = (
            f"{self.file}: {self.megabytes:.1f} MB, {self.found} as in PyTorch (largest difference "
            f"{self.difference:.1g}), {self.milliseconds:.1f} ms an image, in PyTorch {self.milliseconds_torch:.1f} ms"
        )
        inside = self.metadata.preprocessing["in_graph"]
        steps = f"in the graph: {', '.join(inside)}".replace("_", " ") if inside else ""
        scaled = self.metadata.preprocessing["value_range"]
        deep = (
            f"it takes pictures of 8 bits: other programs must first make the values {scaled[0]:g} to {scaled[1]:g} of "
            "deeper ones black to white (data.value_range), which predict and serve do"
            if inside and scaled
            else ""
        )
        return "; ".join(part for part in (said, steps, deep, self.remark) if part)


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    format: str,
    output: str | os.PathLike[str] | None = None,
    *,
    with_preprocessing: bool = False,
    size: tuple[int, int] | None = None,
    opset: int | None = None,
    operators: str | None = None,
    images: Sequence[str] | None = None,
    int8: bool = False,
    calibration: str | None = None,
    calibration_images: int = IMAGES,
    weights: str | None = None,
    license: str | None = None,
    tell: Callable[[str], object] = lambda stage: None,
) -> Exported:
    """Write a trained network for another runtime.

    Batch norms are folded, and each involution stays one operator where the format can have it. The file is run in its
    runtime and compared with PyTorch before it appears.

    Args:
        checkpoint: best.ckpt of a run, what `involution convert` wrote, or the name of published weights.
        format: pt2, aoti, onnx or openvino.
        output: the file; by default the checkpoint's name with the format's suffix, in the current folder.
        with_preprocessing: the graph takes 8-bit pictures of any size, and resizes, crops and normalises them; a
            classifier's or segmenter's ends in a softmax, and what is found is for the picture's own pixels.
        size: height and width of a segmenter's or detector's images; by default any.
        opset: version of ONNX's operators.
        operators: of ONNX: ``standard`` or ``library``.
        images: files, folders and patterns of images to compare on; by default embedded ones of the task.
        int8: quantise to 8 bits; the accuracy before and after is measured on the checkpoint's own validation images,
            or why it is not is said.
        calibration: a folder of images, or a data set as in training, that the ranges are measured on; by default the
            checkpoint's own training data.
        calibration_images: how many of them.
        weights: type that they are stored as: float32, float16 or bfloat16.
        license: of the weights; known for published ones.
        tell: called with a word for each stage that takes time.

    Returns:
        What was written and found.

    Raises:
        ExportError: if it can't be done as asked, or if the file does not compute what PyTorch does.
        CheckpointError: if the checkpoint can't be used.
        MissingExtra: if a package is not installed.
        OSError: if the file can't be written, or must not be replaced.
    """
    chosen = get_format(format)
    exported = is_exported(checkpoint)
    if exported is not None:
        raise ExportError(f"{checkpoint} is a file of the format {exported.name}; wanted the checkpoint of it")
    if (calibration is not None or calibration_images != IMAGES) and not int8:
        raise ExportError("--calibration is for --int8")
    settings = _settings(chosen, with_preprocessing, size, opset=opset, operators=operators, weights=weights, int8=int8)
    target = _target(chosen, checkpoint, output)
    origin = Origin(f"export --format {chosen.name}", (), network_origin(checkpoint))
    with made_of(origin):
        for place in _places(chosen, target):
            check_output(place)
    chosen.require(True, int8)
    tell("reading")
    network, card = load(checkpoint)
    task = get_task(card.task)
    task.check(network, card, settings)
    predictor = engine_task(card.task).predictor(network, card)
    inside = task.inside(card) if with_preprocessing else ()
    pictures = real_images(predictor, images, "resize" in inside)
    if size is not None and not images and card.task != "classify":
        # the only size that a segmenter's file then takes
        pictures = [one.resize(size[::-1]) for one in pictures]
    calibrated = find_pictures(predictor, checkpoint, calibration, calibration_images) if int8 else None
    labelled: Labelled | str = "the file takes pictures, and an evaluation has prepared ones"
    if int8 and not inside:
        labelled = find_labelled(card, checkpoint)
    wanted = [_run(task, predictor, picture) for picture in pictures]
    multiple_of = task.multiple_of(network)
    fuse(network)
    graph = task.graph(network, card, settings)
    published = named(checkpoint)
    metadata = Metadata(
        task=card.task,
        model=card.model,
        classes=list(card.classes),
        category_ids=list(card.category_ids),
        preprocessing=preprocessing(card, inside, multiple_of),
        inputs=_inputs(graph),
        outputs=list(graph.outputs),
        license=license or (published.license if published else None),
        source=published.name if published else Path(checkpoint).name,
        versions=_versions(chosen, int8),
        most=getattr(predictor, "most", None),
        precision=(
            {"type": "int8", "calibration": calibrated.source}
            if calibrated
            else {"type": settings.weights, "calibration": None}
        ),
    )
    if calibrated:
        settings = replace(settings, int8=graph_inputs(task, metadata, calibrated))
    with _temporary() as folder:
        written = folder / f"model{chosen.suffix}"
        tell("compiling" if chosen.name == "aoti" else "calibrating" if calibrated else "writing")
        chosen.write(graph, metadata.to_json(), written, settings)
        tell("comparing with PyTorch")
        found = predictor_of(chosen, written)
        try:
            results = [_run(task, found, picture) for picture in pictures]
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"{chosen.runtime} can't run what was written: {reason}; nothing was written") from error
        difference, most, words = task.agreement(wanted, results, "resize" in inside)
        # 8 bits and half types differ by what is told
        if not difference <= (most if metadata.precision == FLOAT32 else math.inf):
            raise ExportError(
                f"{chosen.name} does not compute what PyTorch does: differences up to {difference:.2g}, {words}; "
                f"nothing was written{'; a --size may help' if inside and size is None and task.fixes else ''}"
            )
        ours, theirs = milliseconds(*(_call(one, task.prepare(one, pictures[0])) for one in (found, predictor)))
        remark = chosen.remark(written, graph)
        if calibrated:
            tell("measuring")
            remark = "; ".join(filter(None, (remark, *_quantised(calibrated, labelled, predictor, found))))
        with made_of(origin), ExitStack() as all_whole:
            for place in _places(chosen, target):
                shutil.copyfile(written.with_suffix(place.suffix), all_whole.enter_context(atomic_path(place)))
    megabytes = sum(place.stat().st_size for place in _places(chosen, target)) / 1e6
    return Exported(target, metadata, megabytes, difference, words, ours, theirs, remark)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for what is not known to be right yet; where it has no room that is said, and what chooses another."""
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="involution-export-", dir=place) as folder:
        try:
            yield Path(folder)
        # writers hide it behind errors of their own
        except Exception as error:
            full = _no_room(error)
            # a file that is named lies elsewhere
            if full is None or (full.filename and not Path(str(full.filename)).is_relative_to(place)):
                raise
            why = f"{full.strerror}; TMPDIR chooses another folder for temporary files"
            raise OSError(full.errno, why, place) from error


def _no_room(error: BaseException | None) -> OSError | None:
    """The error behind an error that says that a disk is full, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _call(predictor: Predictor[Any], prepared: Any) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return predictor.model(prepared)

    return call


def _run(task: TaskExport, predictor: Predictor[Any], picture: Any) -> tuple[torch.Tensor, ...]:
    return task.outputs(predictor, picture, _call(predictor, task.prepare(predictor, picture))())


def _quantised(
    calibrated: Pictures, labelled: Labelled | str, predictor: Predictor[Any], found: Predictor[Any]
) -> list[str]:
    """What 8 bits were calibrated on and what they cost."""
    said, measure = f"calibrated on {calibrated.source}", engine_task(predictor.task).measure
    if isinstance(labelled, str):
        return [said, f"{measure} not measured: {labelled}"]
    before, after = measured([predictor.model, found.model], labelled)
    return [said, f"{measure} {100 * after:.2f} %, in PyTorch {100 * before:.2f} % ({labelled.name})"]


def _settings(chosen: Format, inside: bool, size: tuple[int, int] | None, **options: Any) -> Settings:
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in given:
        if name not in chosen.options:
            able = " or ".join(found.name for found in formats().values() if name in found.options)
            raise ExportError(f"--{name} is not for --format {chosen.name}; wanted {able}")
    if given.get("weights", "float32") not in WEIGHTS:
        raise ExportError(f"wanted weights as {', '.join(WEIGHTS)}, got {given['weights']!r}")
    if given.pop("int8", False) and "weights" in given:
        raise ExportError("--int8 and --weights exclude each other: the weights get 8 bits")
    if size is not None and min(size) < 1:
        raise ExportError(f"wanted a size of 1 pixel or more, got {size[0]}x{size[1]}")
    settings = Settings(inside, size, **given)
    chosen.check(settings)
    return settings


def _target(chosen: Format, checkpoint: str | os.PathLike[str], output: str | os.PathLike[str] | None) -> Path:
    if output is None:
        stem = Path(checkpoint).stem if os.path.exists(checkpoint) else Path(checkpoint).name
        return Path(f"{stem}{chosen.suffix}")
    if Path(output).suffix != chosen.suffix:
        raise ExportError(f"wanted an output file that ends in {chosen.suffix}, got {os.fspath(output)!r}")
    return Path(output)


def _places(chosen: Format, target: Path) -> list[Path]:
    return [target, *(target.with_suffix(suffix) for suffix in chosen.beside)]


def _inputs(graph: Graph) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "dtype": str(one.example.dtype).removeprefix("torch."), "shape": shape}
        for one, shape in zip(graph.inputs, input_shapes(graph), strict=True)
    ]


def _versions(chosen: Format, int8: bool) -> dict[str, str]:
    return {
        "involution": __version__,
        "torch": torch.__version__,
        **{
            package: version(package)
            for package in (*chosen.packages, *chosen.writers, *(chosen.quantisers if int8 else ()))
        },
    }
