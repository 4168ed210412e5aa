"""Training and evaluating classifiers."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from involution.data.classification import ClassificationData, open_dataset
from involution.data.images import ImageError
from involution.data.transforms import eval_transform, train_transforms
from involution.engine.checkpoint import (
    ModelCard,
    create_network,
    load_classifier,
    read_card,
    read_checkpoint,
    versions,
)
from involution.engine.config import ClassifyConfig, ConfigError, DataConfig, load_config
from involution.engine.loader import (
    EvalBatches,
    EvalImages,
    TrainBatches,
    TrainImages,
    make_loader,
)
from involution.engine.optimizer import check_optimizer
from involution.engine.schedule import check_schedule
from involution.engine.weights import load_weights


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
    position = _resume_position(config, resume)
    data = open_dataset(config.data.spec, split_seed=config.data.split_seed, classes=config.data.classes)
    num_images = len(data.train)  # type: ignore[arg-type]
    if num_images < config.data.batch_size:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, but {config.data.spec} has only {num_images} "
            "training images; choose a smaller batch"
        )
    flag = InterruptFlag()
    recorder = RunRecorder(run_dir, flag)
    with flag, _quiet():
        module = _build(config, data, num_images // config.data.batch_size, fresh=resume is None)
        _claim_run_dir(run_dir, resume)
        trainer = _trainer(config, recorder, progress)
        train_loader, val_loader = _loaders(config, data, trainer, position)
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

    network, card = load_classifier(checkpoint)
    config = load_config(base=card.recipe)
    spec = data_spec or config.data.spec
    same = spec == config.data.spec
    data = open_dataset(spec, split_seed=config.data.split_seed, classes=config.data.classes if same else None)
    if len(data.classes) != len(card.classes):
        raise ConfigError(f"{checkpoint} knows {len(card.classes)} classes, but {spec} has {len(data.classes)}")
    config = replace(config, devices=devices, trainer=replace(config.trainer, accelerator=accelerator))
    images = EvalImages(data.split(split), _eval_transform(config.data))
    with _quiet():
        trainer = _plain_trainer(config, progress)
        batches = EvalBatches(len(images), batch_size, trainer.global_rank, trainer.world_size)
        loader = make_loader(images, batches, workers, pin_memory=_on_gpu(trainer))
        module = Classifier(network, config, card, 1)
        start = time.perf_counter()
        trainer.test(module, loader, verbose=False)
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


def check_config(config: ClassifyConfig) -> None:
    """Raise `ConfigError` for settings that are out of range or do not go together."""
    data, trainer = config.data, config.trainer
    check_schedule(config.schedule)
    check_optimizer(config.optimizer)
    parts = config.devices * trainer.accumulate
    if parts < 1 or data.batch_size < 1 or data.batch_size % parts:
        raise ConfigError(
            f"data.batch_size ({data.batch_size}) must be a multiple of devices x trainer.accumulate "
            f"({config.devices} x {trainer.accumulate})"
        )
    if data.channels not in (1, 3) or len(data.mean) != data.channels or len(data.std) != data.channels:
        raise ConfigError(
            f"data.channels must be 1 or 3 with as many data.mean and data.std, got {data.channels}, "
            f"{len(data.mean)} and {len(data.std)}"
        )
    if data.interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"data.interpolation must be bilinear or bicubic, got {data.interpolation!r}")
    positive = {
        "trainer.epochs": trainer.epochs,
        "data.image_size": data.image_size,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name} must be greater than 0, got {value}")
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        raise ConfigError(f"trainer.ema_decay must lie between 0 and 1, got {trainer.ema_decay}")
    if trainer.precision not in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
        known = "32-true, 64-true, bf16-mixed, 16-mixed"
        raise ConfigError(f"trainer.precision must be one of {known}, got {trainer.precision!r}")
    if "/" in config.name or not config.name:
        raise ConfigError(f"name must be the name of a folder, got {config.name!r}")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _resume_position(config: ClassifyConfig, resume: str | os.PathLike[str] | None) -> tuple[int, int]:
    if resume is None:
        return (0, 0)
    found = read_checkpoint(resume)
    card = read_card(found, resume)
    if card.model != config.model.name:
        raise ConfigError(f"{resume} holds a {card.model}, but model.name is {config.model.name}")
    epoch, batch = found["involution"]["position"]
    if epoch >= config.trainer.epochs:
        raise ConfigError(
            f"{resume} is finished ({epoch} of {config.trainer.epochs} epochs); raise --trainer.epochs to train longer"
        )
    return epoch, batch


def is_main_process() -> bool:
    """Whether this is the first, or the only, of the processes that share a job."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _claim_run_dir(run_dir: Path, resume: str | os.PathLike[str] | None) -> None:
    if resume is not None or not is_main_process():
        return
    if run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(
            f"{run_dir} holds a run already; choose another --name, or go on with --resume {run_dir / 'last.ckpt'}"
        )
    run_dir.mkdir(parents=True, exist_ok=True)


def _build(config: ClassifyConfig, data: ClassificationData, steps_per_epoch: int, fresh: bool) -> Any:
    from involution.engine.module import Classifier

    torch.manual_seed(config.seed)
    model = create_network(config.model.name, config.model.args, len(data.classes), config.data.channels)
    if config.model.weights and fresh:
        load_weights(model, config.model.weights)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    side = config.data.image_size
    card = ModelCard(
        task="classify",
        model=config.model.name,
        model_args=dict(config.model.args),
        classes=list(data.classes),
        input_size=(config.data.channels, side, side),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        interpolation=config.data.interpolation,
        crop_pct=config.data.crop_pct,
        recipe=config.to_dict(),
        versions=versions(),
    )
    return Classifier(model, config, card, steps_per_epoch)


def _trainer(config: ClassifyConfig, recorder: Any, progress: bool) -> Any:
    import lightning as L
    from lightning.pytorch.callbacks import EMAWeightAveraging
    from lightning.pytorch.loggers import TensorBoardLogger

    from involution.engine.callbacks import AtomicCheckpointIO
    from involution.engine.progress import ProgressBar

    # the average is updated before the recorder saves it
    callbacks: list[L.Callback] = []
    if config.trainer.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.trainer.ema_decay))
    callbacks.append(recorder)
    if progress:
        callbacks.append(ProgressBar(config.name))
    run_dir = recorder.run_dir
    return L.Trainer(
        **_placement(config),
        max_epochs=config.trainer.epochs,
        gradient_clip_val=config.trainer.clip_grad_norm,
        accumulate_grad_batches=config.trainer.accumulate,
        sync_batchnorm=config.trainer.sync_batchnorm,
        logger=TensorBoardLogger(run_dir, name="", version="tensorboard"),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _plain_trainer(config: ClassifyConfig, progress: bool) -> Any:
    import lightning as L
    from lightning.pytorch.callbacks import RichProgressBar

    return L.Trainer(
        **_placement(config),
        logger=False,
        callbacks=[RichProgressBar()] if progress else [],
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _placement(config: ClassifyConfig) -> dict[str, Any]:
    """Where a trainer runs: under torchrun as that says, else on `devices` devices."""
    from lightning.pytorch.strategies import DDPStrategy

    devices, nodes = config.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    # buffers are not broadcast: evaluation may take fewer batches on one device than on another
    strategy = DDPStrategy(broadcast_buffers=False) if devices * nodes > 1 else "auto"
    return {
        "accelerator": config.trainer.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": strategy,
        "precision": config.trainer.precision,
    }


def _on_gpu(trainer: Any) -> bool:
    return bool(trainer.strategy.root_device.type == "cuda")


def _eval_transform(data: DataConfig) -> Any:
    return eval_transform(data.image_size, data.channels, data.mean, data.std, data.interpolation, data.crop_pct)


def _loaders(
    config: ClassifyConfig, data: ClassificationData, trainer: Any, position: tuple[int, int]
) -> tuple[Any, Any]:
    rank, world, settings = trainer.global_rank, trainer.world_size, config.data
    fixed, random = train_transforms(
        config.augment,
        settings.image_size,
        settings.channels,
        settings.mean,
        settings.std,
        settings.interpolation,
    )
    train_images = TrainImages(data.train, fixed, random, config.seed, settings.cache)
    val_images = EvalImages(data.val, _eval_transform(settings), settings.cache)
    train_batches = TrainBatches(
        len(train_images),
        settings.batch_size,
        config.trainer.accumulate,
        config.seed,
        rank,
        world,
        position,
    )
    val_batches = EvalBatches(len(val_images), max(64, settings.batch_size // world), rank, world)
    gpu = _on_gpu(trainer)
    return (
        make_loader(train_images, train_batches, settings.workers, gpu),
        make_loader(val_images, val_batches, settings.workers, gpu),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice away: what it warns of here is meant so."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            # Lightning's own use of torch
            ".*treespec, LeafSpec.*",
            ".*does not have many workers.*",
            ".*dataloader is not resumable.*",
            ".*module.* in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
