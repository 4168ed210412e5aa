"""Predictions on many images: in parts, each written whole, so that what was interrupted goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import involution
from involution.data.addresses import in_text
from involution.data.findings import Findings
from involution.data.noticed import OF_TRAINING
from involution.engine.files import network_origin
from involution.engine.predictor import PredictError
from involution.engine.settings import MOST
from involution.engine.task import get_task
from involution.extras import require
from involution.predict.inputs import find_inputs
from involution.predict.manifest import Manifest, check_parts_folder
from involution.predict.parts import FORMATS, PartRunner
from involution.predict.workers import Work, Workers, run_with_ray

PART_ROWS = 1000


@dataclass(frozen=True)
class ManyResult:
    """What `predict_many` did.

    Attributes:
        folder: of the parts.
        images: how many there are in all.
        parts: how many files they are in.
        errors: how many have no result, by the kind of error.
        done: images that were predicted this time.
        seconds: that this took, without finding the images and reading the network.
        notes: what is worth telling of the images, such as that some were turned by EXIF.
    """

    folder: Path
    images: int
    parts: int
    errors: Mapping[str, int]
    done: int
    seconds: float
    notes: Sequence[str] = ()


@dataclass
class Progress:
    """Whom `predict_many` tells what it does; nobody by default.

    Attributes:
        say: is given a line.
        advance: is given how many images are finished, and of how many.
    """

    say: Callable[[str], object] = field(default=lambda line: None)
    advance: Callable[[int, int], object] = field(default=lambda done, count: None)


def predict_many(
    images: Iterable[str | Path] | str | Path,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    task: str | None = None,
    column: str | None = None,
    format: str = "parquet",
    part_rows: int = PART_ROWS,
    workers: Workers | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ManyResult:
    """Write a row for each image into a folder, in parts; called again, go on where it was interrupted.

    The rows have the columns ``index`` (the image's number), ``file``, those of the task's `Predictor.row_types`,
    ``error_kind`` and ``error``. An image that can't be read is a row with an error.

    Args:
        images: Files, folders and patterns of images, Parquet tables (``*.parquet``, ``parquet:FOLDER``) and WebDataset
            shards (``*.tar``, brace patterns, ``webdataset:FOLDER``).
        checkpoint: best.ckpt of a run, or what else a predictor is made from.
        folder: Where the parts go: new, empty, or with parts of the same prediction.
        task: Refuse a checkpoint of another task.
        column: Of the tables, with paths or contents of files.
        format: Of the parts, parquet or jsonl.
        part_rows: Rows in a part.
        workers: Who predicts; this process by default.
        progress: Whom to tell.
        **options: Of the task's `Predictor.stream`.

    Returns:
        What was done.

    Raises:
        PredictError: If no images are found, for invalid options, or a folder with anything else in it.
        DataError: For a table or a tar file that can't be read.
        CheckpointError: If the network can't be read.
        OSError: If a part can't be written.
        MissingExtra: For tables and Parquet parts where pyarrow is missing, and for engine ray without Ray.

    Example:
        >>> found = predict_many("photos", "runs/digits/best.ckpt", "rows", topk=1)  # doctest: +SKIP
        >>> found.images, found.errors  # doctest: +SKIP
        (1000000, {'broken': 2})
    """
    from involution.engine.loading import load_predictor
    from involution.models.weights import locate
    from involution.models.weights.cache import file_sha256

    workers, progress = workers or Workers(), progress or Progress()
    if format not in FORMATS:
        raise PredictError(f"wanted parts as {' or '.join(FORMATS)}, got {format!r}")
    if not 1 <= part_rows <= MOST:
        raise PredictError(f"wanted part_rows from 1 to {MOST}, got {part_rows}")
    images = [images] if isinstance(images, str | Path) else list(images)
    far = next(filter(None, map(in_text, map(str, [*images, checkpoint, folder]))), None)
    if far:
        raise PredictError(f"large predictions take files and folders of this machine or a shared drive, got {far}")
    if task is not None:
        get_task(task).predictor.check_call(**options)
    require(*(["pyarrow"] if format == "parquet" else []), *(["ray", "pyarrow"] if workers.engine == "ray" else []))
    # before the work, and before the network is read
    target = Path(os.path.abspath(folder))
    check_parts_folder(target)
    findings = Findings()
    inputs = find_inputs(images, column, findings)
    for said in findings.lines():
        progress.say(said)
    predictor: Any = load_predictor(checkpoint, workers.device if workers.engine == "process" else "cpu", task=task)
    predictor.optimize()
    # how many images are read at a time does not change what is found
    settings = {option.name: option.default for option in predictor.options} | options
    settings.pop("batch_size", None)
    predictor.check_call(**options)
    for said in predictor.remarks(**settings):
        progress.say(said)
    reading = predictor.reading
    parts = inputs.parts(part_rows)
    sha256 = file_sha256(locate(checkpoint))
    job = {
        "command": f"{predictor.task} predict",
        "checkpoint": {"sha256": sha256},
        "inputs": {"images": inputs.count, "sha256": inputs.sha256},
        "settings": {**settings, "format": format, "part_rows": part_rows},
        "parts": len(parts),
        "specs": inputs.specs,
        "network": network_origin(checkpoint),
        "version": involution.__version__,
    }
    with Manifest(target, job, [part.stamps for part in parts]) as manifest:
        if manifest.changed:
            progress.say(
                f"{folder}: {manifest.changed:,} of the images changed since they were predicted; parts that are made "
                f"again: {manifest.again:,}"
            )
        left = [part for part in parts if part.number not in manifest.finished]
        whole = len(parts) - len(left)
        if whole:
            progress.say(f"{folder}: {whole:,} of {len(parts):,} parts are finished" + ("; going on" if left else ""))
        before = sum(line["rows"] for line in manifest.finished.values())
        done, start = 0, time.perf_counter()
        lines: Generator[dict[str, Any], None, None]
        progress.advance(before, inputs.count)
        try:
            if workers.engine == "ray" and left:
                # each worker reads it again
                del predictor
                work = Work(network_origin(checkpoint), sha256, target, format, options)
                lines = run_with_ray(left, work, workers)
            else:
                runner = PartRunner(predictor, target, format, options)
                lines = (runner.run(part) for part in left)
            # so that Ray ends before anything else happens
            with closing(lines):
                for line in lines:
                    manifest.add(line)
                    done += line["rows"]
                    progress.advance(before + done, inputs.count)
        except BaseException as error:
            # what was asked for wrongly goes on with another command
            if not isinstance(error, PredictError):
                finished = f"{len(manifest.finished):,} of {len(parts):,} parts are finished"
                progress.say(f"{folder}: {finished}; the same command goes on")
            raise
        seconds = time.perf_counter() - start
        notes = manifest.noticed().lines(reading, setting=OF_TRAINING)
        for said in notes:
            progress.say(said)
        return ManyResult(Path(folder), inputs.count, len(parts), dict(manifest.errors()), done, seconds, notes)
