"""One training run of any task: its folder, what it goes on from, Ctrl-C, and what it leaves behind."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.images import ImageError
from involution.engine.checkpoint import CheckpointError, ModelCard, read_card, read_checkpoint
from involution.engine.config import Config, ConfigError, RunConfig, config_keys, load_config
from involution.engine.files import make_folder
from involution.engine.setup import is_main_process, make_trainer, quiet

if TYPE_CHECKING:
    from involution.engine.task import Task


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind.

    Attributes:
        best: checkpoint of the epoch that did best on the validation images.
        last: checkpoint of the last epoch.
        log_dir: the run's folder, with metrics.csv and TensorBoard's files.
        seconds: training time without validation, over all epochs.
        images_per_second: training images per second.
        score: of the best checkpoint by the task's measure (accuracy, AP, mean IoU), 0 to 1.
        history: one row per epoch, as in metrics.csv.
    """

    best: Path
    last: Path
    log_dir: Path
    seconds: float
    images_per_second: float
    score: float
    history: list[dict[str, float]]


def fit(
    config: RunConfig,
    classes: Sequence[str],
    num_images: int,
    make_module: Callable[[int, bool], Task],
    make_loaders: Callable[[Any, tuple[int, int]], tuple[Any, Any]],
    *,
    progress: bool = True,
    resume: str | os.PathLike[str] | None = None,
) -> TrainResult:
    """Train, whatever the task.

    Args:
        config: the settings, checked.
        classes: class names of the data.
        num_images: training images.
        make_module: from steps per epoch, and whether the run is a fresh one, to what is trained.
        make_loaders: from the trainer and the (epoch, batch) to begin at to the training and validation loaders.
        progress: show a progress bar, or a line per epoch where the output is no terminal.
        resume: go on from this checkpoint, in its folder.

    Returns:
        Checkpoints, figures and the history.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        CheckpointError: for a checkpoint or weights that can't be used.
        ImageError: for an image that turns out broken during the training.
        TrainingInterrupted: after Ctrl-C; it tells where the training can go on.
        TrainingDiverged: when the loss is no number any more.
    """
    from involution.engine.callbacks import InterruptFlag, RunRecorder, TrainingInterrupted

    run_dir = Path(resume).parent if resume else config.run_dir
    found = None if resume is None else _read_run(config, resume)
    settings: Any = config
    batch_size, spec = settings.data.batch_size, settings.data.spec
    if num_images < batch_size:
        raise ConfigError(
            f"data.batch_size is {batch_size}, but {spec} has only {num_images} training images; choose a smaller batch"
        )
    if found and list(classes) != found[1].classes:
        raise ConfigError(f"{resume} knows other classes ({_some(found[1].classes)}) than {spec}")
    position = found[0] if found else (0, 0)
    flag = InterruptFlag()
    recorder = RunRecorder(run_dir, flag)
    with flag, quiet():
        module = make_module(num_images // batch_size, resume is None)
        _claim_run_dir(run_dir, resume)
        trainer = make_trainer(config, recorder, progress)
        train_loader, val_loader = make_loaders(trainer, position)
        try:
            trainer.fit(module, train_loader, val_loader, ckpt_path=resume, weights_only=True)
        except ImageError as error:
            # a loader process wraps its error in a traceback
            raise ImageError(str(error).strip().splitlines()[-1].removeprefix(f"{_name(ImageError)}: ")) from error
        except SystemExit as error:
            # Lightning's answer to the second Ctrl-C
            raise TrainingInterrupted(recorder.last if recorder.last.is_file() else None) from error
    seconds = sum(row["seconds"] for row in recorder.history)
    images = sum(row["seconds"] * row["images_per_second"] for row in recorder.history)
    return TrainResult(
        best=recorder.best,
        last=recorder.last,
        log_dir=run_dir,
        seconds=seconds,
        images_per_second=images / max(seconds, 1e-9),
        score=recorder.best_score,
        history=recorder.history,
    )


def in_epochs(config: Config, num_images: int) -> Config:
    """The settings with `trainer.steps`, where given, told in whole epochs."""
    settings: Any = config
    trainer = config.trainer
    if trainer.steps is None or num_images < settings.data.batch_size:
        return config
    epochs = math.ceil(trainer.steps / (num_images // settings.data.batch_size))
    return replace(config, trainer=replace(trainer, epochs=epochs))


def tell(message: str) -> None:
    """Print to the error output, once for all processes of a run."""
    if is_main_process():
        print(message, file=sys.stderr)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# the checkpoint restores these, or counts in their units
_KEPT = (
    "name",
    "output",
    "model.",
    "optimizer.",
    "data.batch_size",
    "data.channels",
    "trainer.accumulate",
    "trainer.ema",
)


def _read_run(config: RunConfig, resume: str | os.PathLike[str]) -> tuple[tuple[int, int], ModelCard]:
    """The (epoch, batch) that a run goes on with, and the card of its network."""
    found = read_checkpoint(resume)
    card = read_card(found, resume, config.task)
    if "position" not in found["involution"]:
        raise CheckpointError(
            f"{resume} is converted, no run that could go on: begin one, with --model.weights {resume}"
        )
    before = load_config(base=card.recipe, cls=type(config))
    for key in config_keys(type(config)):
        old, new = (attrgetter(key)(settings) for settings in (before, config))
        if key.startswith(_KEPT) and old != new:
            raise ConfigError(f"a resumed run keeps its {key}: {resume} has {old!r}, got {new!r}")
    epoch, batch = found["involution"]["position"]
    if epoch >= config.trainer.epochs:
        raise ConfigError(
            f"{resume} is finished ({epoch} of {config.trainer.epochs} epochs); raise --trainer.epochs to train longer"
        )
    return (epoch, batch), card


def _claim_run_dir(run_dir: Path, resume: str | os.PathLike[str] | None) -> None:
    if resume is not None or not is_main_process():
        return
    if run_dir.exists() and any(run_dir.iterdir()):
        last = run_dir / "last.ckpt"
        if last.is_file():
            raise ConfigError(f"{run_dir} holds a run already; choose another --name, or go on with --resume {last}")
        raise ConfigError(f"{run_dir} holds files already; choose another --name")
    try:
        make_folder(run_dir)
    except OSError as error:
        raise ConfigError(f"can't make the folder {run_dir} ({error.strerror}); choose another --output") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
