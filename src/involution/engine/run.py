"""Training, for any task, and what an evaluation has in common with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from involution.data import registry
from involution.data.addresses import is_remote
from involution.data.errors import printable
from involution.data.images import ImageError, LoadingError
from involution.data.noticed import colour_lines
from involution.data.parts import reading_of, stored_of
from involution.data.records import DataSet
from involution.data.registry import Options
from involution.data.survey import Survey, cropped_warnings, survey
from involution.engine import plan, precision
from involution.engine.callbacks import LeftOut, RunRecorder, TrainingInterrupted
from involution.engine.card import ModelCard
from involution.engine.checkpoint import CheckpointError, read_checkpoint
from involution.engine.checks import check_config, check_units
from involution.engine.classes import are_same, some
from involution.engine.config import RunConfig
from involution.engine.faults import CannotWrite, RunFailed, TrainingDiverged, loader_killed
from involution.engine.files import atomic_path, is_ours, made_of
from involution.engine.freezing import freeze
from involution.engine.loader import EvalBatches, TrainBatches, make_loader
from involution.engine.loading import make_card
from involution.engine.loggers import check_logger, close_logger
from involution.engine.memory import Fitting, is_out_of_memory
from involution.engine.module import TaskModule
from involution.engine.optimizer import param_groups
from involution.engine.process import is_main_process, tell
from involution.engine.recompute import recompute_blocks
from involution.engine.resume import AUTO, Start, find_start, folder_of
from involution.engine.run_folder import RunFolder
from involution.engine.settings import ConfigError
from involution.engine.signals import StopFlag
from involution.engine.split_record import (
    CONTENTS,
    contents,
    differences,
    joined,
    labels,
    record,
    recorded,
    seen_before,
)
from involution.engine.task import TaskSpec, get_task
from involution.engine.trainer import (
    check_placement,
    make_trainer,
    on_gpu,
    processes,
    quiet,
)
from involution.engine.training_state import check_training_state
from involution.engine.weights import check_weights, fit_backbone, order_head
from involution.models.checkpoint import CheckpointReport


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        best: checkpoint of the epoch that did best on the validation images; the last one where no epoch had a figure
            that is a number.
        last: checkpoint of the last epoch.
        log_dir: the run's folder, with metrics.csv and TensorBoard's files.
        seconds: training time without validation, over all epochs.
        images_per_second: training images per second.
        score: the task's measure (accuracy, AP, mean IoU) of the best checkpoint, 0 to 1, or NaN.
        history: one row per epoch, as in metrics.csv.
        has_test: whether the data has test images, which an evaluation measures by default.
        stopped_early: whether it ended before its last epoch, for want of a better figure.
    """

    best: Path
    last: Path
    log_dir: Path
    seconds: float
    images_per_second: float
    score: float
    history: list[dict[str, float]]
    has_test: bool
    stopped_early: bool = False


def train(config: RunConfig, *, progress: bool = True, resume: str | os.PathLike[str] | None = None) -> TrainResult:
    """Train; the checkpoint is chosen on the validation images, and test images are not touched.

    Args:
        config: the settings: `ClassifyConfig`, `DetectConfig`, `SegmentConfig`, or those of a task of your own.
        progress: show a progress bar, or a line per epoch if the output is not a terminal.
        resume: resume from this checkpoint, in its folder; "auto" from the run's own, if it has one.

    Returns:
        Checkpoints, figures and the history.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        DataError: for a data set that can't be used.
        CheckpointError: for a checkpoint or weights that can't be used.
        LoadingError: for an image that turns out to be broken during training.
        TrainingInterrupted: after Ctrl-C, SIGTERM, SIGHUP or SIGUSR1; it names the checkpoint to resume from.
        TrainingDiverged: when the loss, a gradient or a weight becomes NaN or infinite.
        RunFailed: when memory is short, or a loader process was killed.
        OSError: for a file that can't be written; what was saved is said.
    """
    spec = get_task(config.task)
    check_config(config)
    config = fit_backbone(config)
    check_logger(config)
    with RunFolder(folder_of(config, resume)) as folder:
        if is_remote(folder.path) and config.trainer.strategy == "fsdp":
            raise ConfigError(
                "trainer.strategy fsdp writes checkpoints in parts, which can't be at an address "
                f"({folder.path}): choose an --output on a file system that all machines share"
            )
        if resume is not None:
            folder.lock()
        start = find_start(config, resume)
        config = precision.resumed(config, start.card)
        if start.found is None:
            check_units(config)
            folder.check_claim()
            check_weights(config)
        with quiet():
            device = check_placement(config)
        data = open_data(spec, config, None, start.card is None or _draws_anew(config, start.card))
        images = spec.train_set(config, data)
        num_images = len(images)  # type: ignore[arg-type]
        asked, (config, notes) = config, plan.fitted(config, num_images, processes(config))
        if start.card is not None and not are_same(data.classes, start.card.classes):
            raise ConfigError(
                f"{start.checkpoint} was trained on other classes ({some(start.card.classes)}) than {config.data.spec}"
            )
        flag = StopFlag()
        left_out = LeftOut(data.findings, len(data.split("val")), config.data.on_problem == "skip")
        recorder = RunRecorder(folder.path, flag, left_out, folder.check)
        with flag, quiet():
            module = make_module(spec, config, data, num_images // config.data.batch_size, fresh=start.found is None)
            config = precision.chosen(config, module, images, spec.collate, device, processes(config))
            module.config = config
            module.card = replace(module.card, recipe=plan.recipe(asked, config))
            module.split = _split(data, start, num_images // config.data.batch_size * config.trainer.accumulate)
            if is_main_process():
                before = recorded(start.found or _started_from(config, data), CONTENTS)
                module.split_contents = joined(before, contents(data))
                module.split_labels = labels(data)
            if not _is_finished(config, module, recorder, start, resume):
                if start.found is None:
                    folder.claim()
                _fit(spec, config, data, images, module, recorder, left_out, start, progress, notes)
    seconds = sum(row["seconds"] for row in recorder.history)
    trained = sum(row["seconds"] * row["images_per_second"] for row in recorder.history)
    return TrainResult(
        best=recorder.best if recorder.best_found else recorder.last,
        last=recorder.last,
        log_dir=folder.path,
        seconds=seconds,
        images_per_second=trained / max(seconds, 1e-9),
        score=recorder.best_found[1] if recorder.best_found else math.nan,
        history=recorder.history,
        has_test=data.test is not None,
        stopped_early=config.trainer.patience is not None and len(recorder.history) < config.trainer.epochs,
    )


def _started_from(config: Any, data: DataSet[Any]) -> dict[str, Any]:
    """The checkpoint whose weights a training starts from, if it is one of a training; what it saw is told."""
    weights = getattr(config.model, "weights", None)
    if not weights or not Path(weights).is_file():
        return {}
    try:
        found = read_checkpoint(weights)
    except CheckpointError:
        return {}
    for split in data.parts:
        for line in seen_before(found, data, split, same=False) if split != "train" else ():
            tell(f"warning: {line}, by the training of {weights}")
    return found


def _split(data: DataSet[Any], start: Start, batches: int) -> dict[str, torch.Tensor]:
    """The record of the images of a training; what changed since it began is told.

    Raises:
        ConfigError: if the epoch that it goes on in has become shorter than what was done of it.
    """
    now, before = record(data), recorded(start.found or {})
    seen = [line for split in data.parts for line in seen_before(start.found or {}, data, split, same=True)]
    for line in [*differences(before, now, data.parts), *seen]:
        tell(f"warning: {line}")
    if start.position[1] > batches:
        raise ConfigError(
            f"{start.checkpoint} was written after {start.position[1]} batches of an epoch, and {data.spec} has only "
            f"{batches} now: bring the images back, or resume from a checkpoint of the end of an epoch"
        )
    return joined(before, now)


def _is_finished(
    config: RunConfig, module: TaskModule, recorder: RunRecorder, start: Start, resume: str | os.PathLike[str] | None
) -> bool:
    """Let the recorder go on from a checkpoint; whether there is nothing left to train.

    Raises:
        ConfigError: if nothing is left to do at all.
    """
    if start.found is None:
        return False
    check_training_state(start.found, start.checkpoint or "", param_groups(module.model, config.optimizer))
    mended = recorder.resume(start.found, module.monitor)
    epoch, patience = start.position[0], config.trainer.patience
    waited = start.found["callbacks"].get("EarlyStop", {}).get("wait_count", 0)
    if epoch >= config.trainer.epochs:
        steps, wish = config.trainer.steps, "epochs" if config.trainer.steps is None else "steps"
        by = f", set by trainer.steps {steps}" if steps else ""
        state = f"is finished ({epoch} of {config.trainer.epochs} epochs{by})"
    elif patience is not None and waited >= patience:
        state, wish = f"stopped early ({waited} epochs without a better figure)", "patience"
    else:
        return False
    if resume != AUTO and not mended:
        held = ", which holds instead of trainer.epochs (or set it to null)" if wish == "steps" else ""
        raise ConfigError(f"{start.checkpoint} {state}; raise --trainer.{wish} to train longer{held}")
    tell(f"{start.checkpoint} {state}")
    return True


def _fit(
    spec: TaskSpec,
    config: RunConfig,
    data: Any,
    images: Any,
    module: TaskModule,
    recorder: RunRecorder,
    left_out: LeftOut,
    start: Start,
    progress: bool,
    notes: Sequence[str],
) -> None:
    """Train, in the folder of the recorder."""
    fitting = Fitting()
    if config.trainer.precision == "64-true":
        # before a moving average is made of it or a checkpoint read into it
        module.double()
    trainer = make_trainer(config, recorder, progress, left_out, fitting)
    train_loader, val_loader = make_loaders(spec, config, data, images, trainer, start.position, left_out)
    tell_data(data, progress)
    found_in_data = _survey(data, spec, config) if start.found is None and is_main_process() else None
    if found_in_data:
        _write_survey(found_in_data, recorder.run_dir)
    for note in notes:
        tell(f"warning: {note}")
    if progress and is_main_process():
        device = trainer.strategy.root_device
        for line in plan.lines(config, module.model, device, len(images), found_in_data):
            tell(line)
    try:
        trainer.fit(
            module, train_loader, val_loader, ckpt_path=start.checkpoint and str(start.checkpoint), weights_only=True
        )
    except ImageError as error:
        raise as_loading_error(error) from error
    except SystemExit as error:
        # Lightning's answer to the second Ctrl-C
        raise TrainingInterrupted(recorder.last if recorder.last.is_file() else None) from error
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{error}; {recorder.saved()}") from error
    except OSError as error:
        if error.filename is not None and not recorder.started:
            raise
        where = error.filename or str(recorder.run_dir)
        raise CannotWrite(error.errno, f"{error.strerror or error}; {recorder.saved()}", where) from error
    except MemoryError as error:
        raise RunFailed(f"{fitting.said(config)}; {recorder.saved()}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if "Expected more than 1 value per channel" in str(error):
            alone = config.data.batch_size // (trainer.world_size * config.trainer.accumulate)
            raise ConfigError(
                f"batch norm can't train on {alone} image{'s' if alone > 1 else ''} at a time where a layer sees "
                "one value per image: raise data.batch_size, lower trainer.accumulate, or choose a network "
                "without it (model.norm group, where the task has it)"
            ) from error
        why = loader_killed(error) or (fitting.said(config) if is_out_of_memory(error) else "")
        if why:
            raise RunFailed(f"{why}; {recorder.saved()}") from error
        # before the first step Lightning takes the checkpoint's states apart
        if start.checkpoint is None or recorder.started or type(error).__module__.startswith("involution."):
            raise
        raise CheckpointError(f"can't resume from {start.checkpoint}: {type(error).__name__}: {error}") from error
    finally:
        close_logger(config)
    if found_in_data:
        # with what could not be read while loading
        _write_survey(replace(found_in_data, findings=data.findings.to_dict()), recorder.run_dir)


def make_module(spec: TaskSpec, config: RunConfig, data: Any, steps_per_epoch: int, *, fresh: bool) -> Any:
    """The Lightning module with network and card; a resumed run gets its weights later."""
    torch.manual_seed(config.seed)
    network = spec.build(config, len(data.classes), fresh)
    if isinstance(loaded := getattr(network, "loaded", None), CheckpointReport):
        order_head(network, config.model.weights or "", loaded, data.classes)
    frozen = freeze(network, config.model)
    if frozen:
        tell(frozen)
    if config.trainer.channels_last:
        network.to(memory_format=torch.channels_last)
    if how := config.trainer.activation_checkpointing:
        recompute_blocks(network, selective=how == "selective")
    if config.compile:
        _compile(spec.compiled(network), in_parts=config.trainer.strategy == "fsdp")
    card = make_card(config, data.classes, category_ids(data))
    module = spec.module(network, config, card, steps_per_epoch, data.split("val"))
    module.see_training_images(data.train)
    return module


def _compile(network: Any, *, in_parts: bool) -> None:
    """Let torch.compile have a network; in parts, each block is a graph by itself: its weights are gathered first."""
    if not in_parts:
        network.compile()
        return
    # blocks of one class have as many forms as there are stages, in training and evaluation. With sizes left open, as
    # the second form would have them, inductor fails: "Cannot convert expression to float"
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    network.compile(dynamic=False)


def make_loaders(
    spec: TaskSpec,
    config: RunConfig,
    data: Any,
    images: Any,
    trainer: Any,
    position: tuple[int, int],
    left_out: LeftOut | None = None,
) -> tuple[Any, Any]:
    """Loaders of the training and validation images, for this device, from an (epoch, batch) on.

    Images that can't be read are told to `left_out`, if they are to be skipped, or if other devices have to know.
    """
    rank, world, settings = trainer.global_rank, trainer.world_size, config.data
    accumulate = config.trainer.accumulate
    weights = getattr(images, "weights", None)
    batches = TrainBatches(len(images), settings.batch_size, accumulate, config.seed, rank, world, position, weights)
    val_images: Any = spec.eval_set(config, data.split("val"))
    val_size = max(spec.least_val_batch, settings.batch_size // world)
    val_batches = EvalBatches(len(val_images), val_size, rank, world)
    gpu = on_gpu(trainer)
    told = left_out if left_out is not None and (left_out.skip or world > 1) else None
    complaints = (None, None) if told is None else (told.training, told.evaluation)
    return (
        make_loader(images, batches, settings.workers, gpu, spec.collate, complaints[0]),
        make_loader(val_images, val_batches, settings.workers, gpu, spec.collate, complaints[1]),
    )


def category_ids(data: DataSet[Any]) -> list[int]:
    """The source's ids of the classes, if it has any."""
    record = getattr(data.train, "record", None)
    return [] if record is None else list(record.category_ids)


def open_data(spec: TaskSpec, config: RunConfig, only: str | None = None, given: bool = True) -> DataSet[Any]:
    """The data set of the settings, or one split of it; settings that have no effect are told if they were given."""
    options = Options.of(config.data, only=only, given=given, **spec.data_options(config))
    return registry.open_data(spec.name, config.data.spec, options)


def _draws_anew(config: RunConfig, card: ModelCard) -> bool:
    """Whether a resumed run has other settings of how splits are drawn than its checkpoint."""
    before = card.recipe.get("data", {})
    names = ("split_seed", "split_by", "split_copies")
    return any(getattr(config.data, name) != before.get(name, getattr(config.data, name)) for name in names)


def tell_data(data: DataSet[Any], summary: bool) -> None:
    """Say what a data set used and what it did not."""
    if summary:
        tell(f"data: {data.findings.summary()} of {printable(data.spec)}")
    for line in data.findings.lines():
        tell(line)


def _survey(data: DataSet[Any], spec: TaskSpec, config: RunConfig) -> Survey:
    """What the data set holds; what is surely not meant so is said."""
    found = survey(data, quick=True)
    # training sees other parts of an image each time
    beside = [line for split in data.parts if split != "train" for line in cropped(spec, config, data, split)]
    for warning in (*found.warnings, *beside):
        tell(f"warning: {warning}")
    for line in (line for split in data.parts for line in in_colours(config, data, split)):
        tell(line)
    return found


def cropped(spec: TaskSpec, config: RunConfig, data: DataSet[Any], split: str) -> list[str]:
    """That the network sees little of some images of a split."""
    places = stored_of(data.split(split))
    return cropped_warnings(places, lambda size: spec.share_seen(config, size), f"images of {split}")


def in_colours(config: Any, data: DataSet[Any], split: str) -> list[str]:
    """That images are in colours, for a network of grey ones."""
    part = data.split(split)
    grey = getattr(config.data, "channels", 3) == 1
    return colour_lines(stored_of(part), reading_of(part), f"images of {split}") if grey else []


def _write_survey(found: Survey, run_dir: Path) -> None:
    """Keep what the data set holds beside the checkpoints."""
    # the record of the folder's files says whose it is, should nothing come after it
    ours = is_ours(run_dir / "data.json") or not (run_dir / "data.json").exists()
    with made_of(None), atomic_path(run_dir / "data.json", replace=not ours) as partial:
        text = json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_loading_error(error: ImageError) -> LoadingError:
    """The error of a loader process, which wraps it in its traceback, as it was there."""
    message = str(error).rpartition(f"{ImageError.__module__}.{ImageError.__qualname__}: ")[2]
    return LoadingError(message.replace("\\n", " ").strip())
