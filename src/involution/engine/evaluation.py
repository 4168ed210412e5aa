"""Evaluation of a checkpoint, for any task."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from involution.data import registry
from involution.data.addresses import is_address
from involution.data.errors import DataError
from involution.data.images import ImageError
from involution.data.parts import reading_of, stored_of
from involution.data.survey import deep_warnings
from involution.engine import run
from involution.engine.callbacks import LeftOut
from involution.engine.checkpoint import read_checkpoint, read_recipe
from involution.engine.classes import match_classes, some
from involution.engine.faults import RunFailed, loader_killed
from involution.engine.loader import EvalBatches, make_loader
from involution.engine.loading import load_contents
from involution.engine.predictor import Predictor
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.engine.split_record import differences, is_whole, record, recorded, seen_before
from involution.engine.task import get_task
from involution.engine.trainer import check_placement, make_eval_trainer, on_gpu, quiet


def evaluate(
    checkpoint: str | os.PathLike[str],
    data_spec: str | None = None,
    split: str | None = None,
    *,
    task: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    on_problem: str = "refuse",
    progress: bool = False,
) -> Any:
    """Measure a checkpoint on a split, each image counted once.

    Args:
        checkpoint: best.ckpt or last.ckpt of a run.
        data_spec: the data set; by default the one it was trained on.
        split: train, val or test; by default test for a classifier, but val of ImageNet, and val for the others.
        task: refuse a checkpoint of another task than this.
        batch_size: images per batch on one device; by default the task's.
        workers: loader processes per device.
        devices: number of devices that share the images.
        accelerator: auto, cpu, cuda or mps.
        on_problem: refuse broken images and malformed annotations, or skip them.
        progress: show a progress bar.

    Returns:
        The task's `Figures`: `ClassificationFigures`, `DetectionFigures`, `SegmentationFigures`.

    Raises:
        CheckpointError: for a checkpoint that can't be used.
        ConfigError: for a data set of other classes.
        DataError: for a data set that can't be used.
    """
    return measure(
        checkpoint,
        data_spec,
        split,
        task=task,
        batch_size=batch_size,
        workers=workers,
        devices=devices,
        accelerator=accelerator,
        on_problem=on_problem,
        progress=progress,
    ).figures


@dataclass(frozen=True)
class Measured:
    """An evaluation and what it was made with.

    Attributes:
        figures: what `evaluate` returns.
        images: the split, as the data set has it.
        predictor: the network with its card, ready for single images.
        warnings: why the figures may mean something else than they say, such as images that were trained on.
    """

    figures: Any
    images: Any
    predictor: Predictor[Any]
    warnings: Sequence[str] = ()


def measure(
    checkpoint: str | os.PathLike[str],
    data_spec: str | None = None,
    split: str | None = None,
    *,
    task: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    on_problem: str = "refuse",
    progress: bool = False,
    told: bool = False,
) -> Measured:
    """As `evaluate`, with what a report of it needs; what the data is like may have been told by the training."""
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("devices", devices, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")
    found = read_checkpoint(checkpoint)
    network, card = load_contents(found, checkpoint, task=task)
    spec = get_task(card.task)
    if split not in (None, *spec.splits):
        raise ConfigError(f"split must be {' or '.join(spec.splits)}, got {split!r}")
    config = read_recipe(card, checkpoint, spec.config)
    training_spec = config.data.spec
    split = split or registry.eval_split(spec.name, data_spec or training_spec) or spec.eval_split
    config = _eval_config(config, data_spec, on_problem)
    config = replace(config, devices=devices, trainer=replace(config.trainer, accelerator=accelerator))
    # data of its own is measured whole, and need not have the other splits
    same = data_spec is None or _same_data(data_spec, training_spec)
    with quiet():
        check_placement(config, whole=True)
    try:
        data = run.open_data(spec, config, None if same else split, False)
    except DataError as error:
        kind, _, place = training_spec.partition(":")
        if data_spec is not None or not place or is_address(place) or Path(place).expanduser().exists():
            raise
        raise DataError(
            f"{error}, where {checkpoint} had its data in training; if it was moved, name its place: --data {kind}:PATH"
        ) from error
    if data.findings.whole and is_whole(found, data, split):
        moved = run.open_data(spec, config, None, False)
        if split in moved.parts and not differences(recorded(found), record(moved), [split]):
            tell(f"{data.spec} has the images of the training: its {split} part alone is measured")
            data, same = moved, True
    measured = data.split(split)
    warnings = differences(recorded(found), record(data), [split]) if same else []
    warnings += seen_before(found, data, split, same)
    warnings += deep_warnings(stored_of(measured), reading_of(measured), f"images of {split}")
    warnings += run.cropped(spec, config, data, split)
    for line in warnings if not told else ():
        tell(f"warning: {line}")
    for line in run.in_colours(config, data, split) if not told else ():
        tell(line)
    data, within, card = match_classes(card, data, checkpoint)
    if within is not None:
        # which was told
        warnings.append(f"measured among {some([card.classes[label] for label in within])} alone")
    images = spec.eval_set(config, data.split(split))
    count = len(images)  # type: ignore[arg-type]
    left_out = LeftOut(data.findings, count, on_problem == "skip")
    with quiet():
        trainer = make_eval_trainer(config, progress, left_out)
        batches = EvalBatches(count, batch_size or spec.eval_batch_size, trainer.global_rank, trainer.world_size)
        complaints = left_out.evaluation if left_out.skip or trainer.world_size > 1 else None
        loader = make_loader(images, batches, workers, on_gpu(trainer), spec.collate, complaints)
        module = spec.module(network, config, card, 1, data.split(split))
        module.within = within
        if not told:
            run.tell_data(data, progress)
        start = time.perf_counter()
        try:
            trainer.test(module, loader, verbose=False)
        except ImageError as error:
            raise run.as_loading_error(error) from error
        except RuntimeError as error:
            if not loader_killed(error):
                raise
            raise RunFailed(loader_killed(error)) from error
        except SystemExit as error:
            # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        seconds = time.perf_counter() - start
    for line in module.remarks():
        tell(f"warning: {split}: {line}")
        warnings.append(f"{split}: {line}")
    count -= left_out.missing
    if left_out.missing:
        # the numbers no longer say which image they belong to
        module.results["difficulty"] = []
        unread = f"{left_out.missing} of {count + left_out.missing} images could not be read and are not measured"
        warnings.append(f"{split}: {unread}; which of the others are the hardest is therefore not shown")
    common = {"num_images": count, "images_per_second": count / seconds, "classes": card.classes}
    common["split"] = "all" if data.findings.whole else split
    figures = spec.figures.from_results(module.results, **common)
    predictor = spec.predictor(network, card)
    predictor.within = within
    return Measured(figures, data.split(split), predictor, warnings)


def _eval_config(config: Any, data_spec: str | None, on_problem: str) -> Any:
    """The settings of the training, for the data to measure on."""
    changes: dict[str, Any] = {}
    if data_spec is not None and not _same_data(data_spec, config.data.spec):
        changes["spec"] = data_spec
        if hasattr(config.data, "classes"):
            # a file of class names belongs to the data that it was given for
            changes["classes"] = None
    # each image is read once; classes without an image are no fault of what is measured
    changes |= {"on_problem": on_problem, "cache": False}
    if not hasattr(config.data, "values"):
        # label maps are checked as in training: their values may mean something else
        changes["allow_empty"] = True
    return replace(config, data=replace(config.data, **changes))


def _same_data(spec: str, other: str) -> bool:
    """Whether two specs lead to the same place, however they are written."""
    places = []
    for text in (spec, other):
        kind, colon, path = text.partition(":")
        places.append(os.path.realpath(os.path.expanduser(path if colon else kind)))
    return places[0] == places[1]
