"""Training and evaluating classifiers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from torch import Tensor

from involution.data.classification import open_dataset
from involution.data.images import ImageError
from involution.engine.checkpoint import ModelCard, load_classifier, read_card, read_checkpoint
from involution.engine.checks import check_config
from involution.engine.config import ClassifyConfig, ConfigError, config_keys, load_config
from involution.engine.files import make_folder
from involution.engine.loader import EvalBatches, EvalImages, make_loader
from involution.engine.setup import (
    config_eval_transform,
    is_main_process,
    make_eval_trainer,
    make_loaders,
    make_module,
    make_trainer,
    on_gpu,
    quiet,
)


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind.

    Attributes:
        best: checkpoint of the epoch with the best validation accuracy.
        last: checkpoint of the last epoch.
        log_dir: the run's folder, with metrics.csv and TensorBoard's files.
        seconds: training time without validation, over all epochs.
        images_per_second: training images per second.
        val_accuracy: of the best checkpoint, 0 to 1.
        history: one row per epoch, as in metrics.csv.
    """

    best: Path
    last: Path
    log_dir: Path
    seconds: float
    images_per_second: float
    val_accuracy: float
    history: list[dict[str, float]]


@dataclass(frozen=True)
class EvalResult:
    """Figures of a checkpoint on one split.

    Attributes:
        top1: share of images whose best class is right, 0 to 1.
        top5: share of images whose right class is among the five best.
        loss: mean cross-entropy.
        confusion: [classes, classes], counts of images by true class (row) and predicted class (column).
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
    """

    top1: float
    top5: float
    loss: float
    confusion: Tensor
    num_images: int
    images_per_second: float
    classes: list[str]
    split: str


def train(
    config: ClassifyConfig, *, progress: bool = True, resume: str | os.PathLike[str] | None = None
) -> TrainResult:
    """Train a classifier; the checkpoint is chosen on the validation images, the test images are not touched.

    Args:
        config: the settings.
        progress: show a progress bar, or a line per epoch where the output is no terminal.
        resume: go on from this checkpoint, in its folder.

    Returns:
        Checkpoints, figures and the history.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        DataError: for a data set that can't be used.
        CheckpointError: for a checkpoint or weights that can't be used.
        ImageError: for an image that turns out broken during the training.
        TrainingInterrupted: after Ctrl-C; it tells where the training can go on.
        TrainingDiverged: when the loss is no number any more.
    """
    from involution.engine.callbacks import InterruptFlag, RunRecorder, TrainingInterrupted

    run_dir = Path(resume).parent if resume else config.run_dir
    check_config(config)
    found = None if resume is None else _read_run(config, resume)
    data = open_dataset(config.data.spec, split_seed=config.data.split_seed, classes=config.data.classes)
    num_images = len(data.train)  # type: ignore[arg-type]
    if num_images < config.data.batch_size:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, but {config.data.spec} has only {num_images} "
            "training images; choose a smaller batch"
        )
    if found and list(data.classes) != found[1].classes:
        raise ConfigError(f"{resume} knows other classes ({_some(found[1].classes)}) than {config.data.spec}")
    position = found[0] if found else (0, 0)
    flag = InterruptFlag()
    recorder = RunRecorder(run_dir, flag)
    with flag, quiet():
        module = make_module(config, data, num_images // config.data.batch_size, fresh=resume is None)
        _claim_run_dir(run_dir, resume)
        trainer = make_trainer(config, recorder, progress)
        train_loader, val_loader = make_loaders(config, data, trainer, position)
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
        val_accuracy=recorder.best_accuracy,
        history=recorder.history,
    )


def evaluate(
    checkpoint: str | os.PathLike[str],
    data_spec: str | None = None,
    split: str = "test",
    *,
    batch_size: int = 64,
    workers: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    progress: bool = False,
) -> EvalResult:
    """Measure a checkpoint on a split, each image counted once.

    Args:
        checkpoint: best.ckpt or last.ckpt of a run.
        data_spec: the data set, as `open_dataset` takes it; by default the one it was trained on.
        split: train, val or test.
        batch_size: images per batch on one device.
        workers: loader processes per device.
        devices: number of devices that share the images.
        accelerator: auto, cpu, gpu, mps.
        progress: show a progress bar.

    Returns:
        The figures.

    Raises:
        CheckpointError: for a checkpoint that can't be used.
        DataError: for a data set that can't be used, or of another number of classes.
    """
    from involution.engine.module import Classifier

    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("devices", devices, 1)):
        if value < least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")
    network, card = load_classifier(checkpoint)
    config = load_config(base=card.recipe)
    spec = data_spec or config.data.spec
    same = spec == config.data.spec
    data = open_dataset(spec, split_seed=config.data.split_seed, classes=config.data.classes if same else None)
    if len(data.classes) != len(card.classes):
        raise ConfigError(f"{checkpoint} knows {len(card.classes)} classes, but {spec} has {len(data.classes)}")
    config = replace(config, devices=devices, trainer=replace(config.trainer, accelerator=accelerator))
    images = EvalImages(data.split(split), config_eval_transform(config.data))
    with quiet():
        trainer = make_eval_trainer(config, progress)
        batches = EvalBatches(len(images), batch_size, trainer.global_rank, trainer.world_size)
        loader = make_loader(images, batches, workers, pin_memory=on_gpu(trainer))
        module = Classifier(network, config, card, 1)
        start = time.perf_counter()
        try:
            trainer.test(module, loader, verbose=False)
        except SystemExit as error:
            # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        seconds = time.perf_counter() - start
    found = module.results
    return EvalResult(
        top1=float(found["accuracy"]),
        top5=float(found["top5"]),
        loss=float(found["loss"]),
        confusion=found["confusion"].cpu(),
        num_images=int(found["confusion"].sum()),
        images_per_second=len(images) / seconds,
        classes=card.classes,
        split=split,
    )


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


def _read_run(config: ClassifyConfig, resume: str | os.PathLike[str]) -> tuple[tuple[int, int], ModelCard]:
    """The (epoch, batch) that a run goes on with, and the card of its network."""
    found = read_checkpoint(resume)
    card = read_card(found, resume)
    before = load_config(base=card.recipe)
    for key in config_keys():
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
