"""Using exported files: the same typed results as those of checkpoints."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from involution.data.images import ImageError
from involution.engine.predictor import Predictor
from involution.export.errors import ExportError
from involution.export.metadata import Metadata, read_metadata
from involution.export.registry import Format, formats, get_task
from involution.extras import require


def runtimes() -> dict[str, Format]:
    """The formats by what runs their files."""
    return {found.runtime: found for found in formats().values()}


def load_exported(path: str | os.PathLike[str], runtime: str, *, task: str | None = None) -> Predictor[Any]:
    """A predictor that runs an exported file on the CPU; without PyTorch, if it is one for ONNX Runtime or OpenVINO.

    A file of the format pt2 or aoti can hold code: use those that you, or people you trust, have made.

    Args:
        path: what `involution export` wrote.
        runtime: torch (for pt2), aoti, onnx or openvino.
        task: refuse a file of another task.

    Raises:
        ExportError: if the file is missing, of another format or task, or not made by this package.
        MissingExtra: if the runtime is not installed.
    """
    known = runtimes()
    if runtime not in known:
        raise ExportError(f"no runtime named {runtime!r} (there are {', '.join(known)})")
    chosen, file = known[runtime], Path(path)
    if not file.is_file():
        raise ExportError(f"no such file: {path}")
    if not chosen.recognises(file):
        other = next((found for found in formats().values() if found.recognises(file)), None)
        hint = f"; add --runtime {other.runtime}" if other else ""
        raise ExportError(f"{path}: not a file of `involution export --format {chosen.name}`{hint}")
    if chosen.load_arrays is None:
        return predictor_of(chosen, file, task)
    # NumPy and Pillow come with it
    require("numpy", "PIL")
    from involution.export.arrays import PREDICTORS, File

    metadata, run = _loaded(chosen, chosen.load_arrays, file, task)
    # no module, but what its predictor runs
    network: Any = File(run, metadata)
    return PREDICTORS[metadata.task](network, metadata.card())


def is_exported(path: str | os.PathLike[str]) -> Format | None:
    """The format of an exported file; None for any other file, and for none."""
    file = Path(path)
    if not file.is_file():
        return None
    return next((found for found in formats().values() if found.recognises(file)), None)


def predictor_of(chosen: Format, file: Path, task: str | None = None) -> Predictor[Any]:
    """A predictor that runs a file of a format on tensors."""
    require("torch")
    from involution.engine.task import get_task as engine_task

    metadata, run = _loaded(chosen, chosen.load, file, task)
    network = get_task(metadata.task).network(run, metadata)
    return engine_task(metadata.task).predictor(network, metadata.card())


def _loaded(chosen: Format, load: Callable[[Path], Any], file: Path, task: str | None) -> tuple[Metadata, Any]:
    """What a file says of itself, and what runs it."""
    chosen.require()
    metadata = read_metadata(chosen.metadata(file), file, task)
    try:
        with _torch_quiet():
            run = load(file)
    except (ValueError, ImportError):
        raise
    # runtimes tell of a damaged file in many ways, with pages of text
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(f"{file}: damaged, or not for the installed {chosen.runtime}: {reason}") from error
    return metadata, _checked(run, metadata)


@contextmanager
def _torch_quiet() -> Iterator[None]:
    """Leave out what PyTorch logs of a file that it can't load, in pages, besides what it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._inductor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _checked(run: Any, metadata: Metadata) -> Any:
    """Refuse tensors and arrays of other sizes than a file is for, which runtimes refuse in many ways or not at all."""
    wanted = [one["shape"] for one in metadata.inputs]

    def checked(inputs: Sequence[Any]) -> tuple[Any, ...]:
        for tensor, shape in zip(inputs, wanted, strict=True):
            fits = all(isinstance(size, str) or size == got for size, got in zip(shape, tensor.shape, strict=True))
            if not fits:
                raise ImageError(f"the file was exported for {_sizes(shape)}, got {_sizes(tensor.shape)}")
        return run(inputs)

    return checked


def _sizes(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape))
