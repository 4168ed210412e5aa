"""Training and evaluating classifiers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from involution.data.classification import open_dataset
from involution.engine.checkpoint import load_classifier
from involution.engine.checks import check_config
from involution.engine.config import ClassifyConfig, ConfigError, load_config
from involution.engine.fit import TrainResult, fit, in_epochs
from involution.engine.loader import EvalBatches, EvalImages, make_loader
from involution.engine.setup import (
    config_eval_transform,
    make_eval_trainer,
    make_loaders,
    make_module,
    on_gpu,
    quiet,
)


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
    check_config(config)
    data = open_dataset(config.data.spec, split_seed=config.data.split_seed, classes=config.data.classes)
    num_images = len(data.train)  # type: ignore[arg-type]
    config = in_epochs(config, num_images)

    def module(steps_per_epoch: int, fresh: bool) -> Any:
        return make_module(config, data, steps_per_epoch, fresh)

    def loaders(trainer: Any, position: tuple[int, int]) -> tuple[Any, Any]:
        return make_loaders(config, data, trainer, position)

    return fit(config, data.classes, num_images, module, loaders, progress=progress, resume=resume)


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
