"""Training and evaluating segmenters."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override

from involution.data.errors import in_words
from involution.data.segmentation import IGNORED, LabelMaps, SegmentationData, open_segmentation
from involution.data.transforms import segmentation_eval_transform, segmentation_transform
from involution.engine.checkpoint import (
    CheckpointError,
    ModelCard,
    network_weights,
    read_card,
    read_checkpoint,
    versions,
)
from involution.engine.config import ConfigError, load_config
from involution.engine.fit import TrainResult, fit, in_epochs, tell
from involution.engine.loader import EvalBatches, EvalScenes, TrainBatches, TrainScenes, as_lists, make_loader
from involution.engine.segment_config import SegmentConfig, check_segment, create_segmenter
from involution.engine.setup import make_eval_trainer, on_gpu, quiet
from involution.engine.task import Task

# weight of the auxiliary head's loss
_AUXILIARY = 0.4
Batch = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class SegmentationFigures:
    """Figures of a checkpoint on one split.

    Attributes:
        miou: mean over the classes of intersection over union, 0 to 1; classes that neither appear nor are predicted
            are left out.
        iou: of each class, NaN where it neither appears nor is predicted.
        accuracy: share of the labelled pixels that are right.
        confusion: [classes, classes], counts of pixels by true class (row) and predicted class (column).
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
    """

    miou: float
    iou: list[float]
    accuracy: float
    confusion: Tensor
    num_images: int
    images_per_second: float
    classes: list[str]
    split: str


def intersection_over_union(confusion: Tensor) -> Tensor:
    """IoU of each class [classes] from counts [classes, classes]; NaN for a class in neither rows nor columns."""
    counts = confusion.double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


class Segmenter(Task):
    """A segmenter with its loss, mean IoU, optimiser and schedule.

    Args:
        model: from images [N, 3, H, W] to logits [N, classes, H, W], in training perhaps auxiliary ones, too.
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.
    """

    monitor = "miou"
    config: SegmentConfig

    def __init__(self, model: nn.Module, config: SegmentConfig, card: ModelCard, steps_per_epoch: int) -> None:
        super().__init__(model, config, card, steps_per_epoch)
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.loss_count = SumMetric(nan_strategy="disable")
        self.register_buffer("class_weights", _weights(config, card.classes), persistent=False)
        self.dice = DiceLoss("multiclass", ignore_index=IGNORED)
        self.confusion = MulticlassConfusionMatrix(len(card.classes), ignore_index=IGNORED)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        try:
            images, labels = (torch.stack(part) for part in batch)
        except RuntimeError as error:
            raise ConfigError("the images of a batch differ in size: set augment.crop to a height and width") from error
        if self.config.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        outputs = self.model(images)
        main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self._loss(main, labels)
        for logits in auxiliary:
            loss = loss + _AUXILIARY * self._loss(logits, labels)
        self.loss_sum.update(loss.detach() * len(images))
        self.loss_count.update(len(images))
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # a crop may have no labelled pixel at all: the mean of none is no number
        if not (labels != IGNORED).any():
            return logits.sum() * 0.0
        weights: Any = self.class_weights
        smoothing = self.config.trainer.label_smoothing
        loss = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, label_smoothing=smoothing)
        dice = self.config.model.dice_weight
        return loss + dice * self.dice(logits, labels) if dice else loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        alike = len({image.shape for image in images}) == 1
        for inputs, truths in [(images, labels)] if alike else [([i], [t]) for i, t in zip(*batch, strict=True)]:
            logits = self.model(torch.stack(inputs))
            for one, truth in zip(logits, truths, strict=True):
                self.confusion.update(_at_size(one, truth.shape).argmax(0)[None], truth[None])

    @override
    def on_validation_epoch_end(self) -> None:
        counts = self.confusion.compute()
        self.confusion.reset()
        iou = intersection_over_union(counts)
        self.results = {
            "confusion": counts,
            "iou": iou,
            "miou": iou.nanmean(),
            "accuracy": counts.diagonal().sum() / counts.sum().clamp(min=1),
        }

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def train_figures(self) -> dict[str, float]:
        found = {"loss": float(self.loss_sum.compute() / self.loss_count.compute())}
        self.loss_sum.reset()
        self.loss_count.reset()
        return found

    @override
    def val_figures(self) -> dict[str, float]:
        return {name: float(self.results[name]) for name in ("miou", "accuracy")}


def _weights(config: SegmentConfig, classes: list[str]) -> Tensor:
    weights = config.model.class_weights
    if weights is None:
        return torch.ones(len(classes))
    if len(weights) != len(classes):
        raise ConfigError(f"model.class_weights wants {len(classes)} weights, one for each class, got {len(weights)}")
    return torch.tensor(weights)


def _at_size(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits [classes, h, w] at the size of the labels."""
    if logits.shape[1:] == size:
        return logits
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def train(config: SegmentConfig, *, progress: bool = True, resume: str | os.PathLike[str] | None = None) -> TrainResult:
    """Train a segmenter; the checkpoint with the best mean IoU of the validation images is kept.

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
    check_segment(config)
    data = open_segmentation(config.data.spec, on_problem=config.data.on_problem)
    _tell_problems(data)
    config = in_epochs(config, len(data.train))

    def module(steps_per_epoch: int, fresh: bool) -> Task:
        torch.manual_seed(config.seed)
        model = create_segmenter(config, len(data.classes), weights=fresh)
        if config.trainer.channels_last:
            model.to(memory_format=torch.channels_last)
        if config.compile:
            model.compile()
        return Segmenter(model, config, make_card(config, data.classes), steps_per_epoch)

    def loaders(trainer: Any, position: tuple[int, int]) -> tuple[Any, Any]:
        rank, world, settings = trainer.global_rank, trainer.world_size, config.data
        augment = config.augment
        transform = segmentation_transform(
            settings.mean,
            settings.std,
            min_size=settings.min_size,
            scale=augment.scale,
            crop=augment.crop,
            class_limit=augment.class_limit,
            flip=augment.flip,
            rotate=augment.rotate,
            shear=augment.shear,
            zoom=augment.zoom,
            photometric=augment.photometric,
        )
        images = TrainScenes(data.train, transform, config.seed, settings.cache)
        accumulate = config.trainer.accumulate
        batches = TrainBatches(len(images), settings.batch_size, accumulate, config.seed, rank, world, position)
        return (
            make_loader(images, batches, settings.workers, on_gpu(trainer), as_lists),
            _eval_loader(config, data.val, max(1, settings.batch_size // world), settings.workers, trainer),
        )

    return fit(config, data.classes, len(data.train), module, loaders, progress=progress, resume=resume)


def evaluate(
    checkpoint: str | os.PathLike[str],
    data_spec: str | None = None,
    split: str = "val",
    *,
    batch_size: int = 4,
    workers: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    on_problem: str = "refuse",
    progress: bool = False,
) -> SegmentationFigures:
    """Measure a segmenter on a split, whole images, each counted once.

    Args:
        checkpoint: best.ckpt or last.ckpt of a run.
        data_spec: the data set, as `open_segmentation` takes it; by default the one it was trained on.
        split: train or val.
        batch_size: images per batch on one device.
        workers: loader processes per device.
        devices: number of devices that share the images.
        accelerator: auto, cpu, gpu, mps.
        on_problem: refuse broken files, or skip them.
        progress: show a progress bar.

    Returns:
        The figures.

    Raises:
        CheckpointError: for a checkpoint that can't be used.
        ConfigError: for a data set of other classes.
        DataError: for a data set that can't be used.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("devices", devices, 1)):
        if value < least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")
    if split not in ("train", "val"):
        raise ConfigError(f"split must be train or val, got {split!r}")
    model, card = load_segmenter(checkpoint)
    config = load_config(base=card.recipe, cls=SegmentConfig)
    spec = data_spec or config.data.spec
    data = open_segmentation(spec, on_problem=on_problem)
    _tell_problems(data)
    if data.classes != card.classes:
        raise ConfigError(f"{checkpoint} knows other classes ({len(card.classes)}) than {spec} ({len(data.classes)})")
    maps: LabelMaps = getattr(data, split)
    config = replace(config, devices=devices, trainer=replace(config.trainer, accelerator=accelerator))
    with quiet():
        trainer = make_eval_trainer(config, progress)
        loader = _eval_loader(config, maps, batch_size, workers, trainer)
        module = Segmenter(model, config, card, 1)
        start = time.perf_counter()
        try:
            trainer.test(module, loader, verbose=False)
        except SystemExit as error:
            # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        seconds = time.perf_counter() - start
    found = module.results
    return SegmentationFigures(
        miou=float(found["miou"]),
        iou=found["iou"].tolist(),
        accuracy=float(found["accuracy"]),
        confusion=found["confusion"].cpu(),
        num_images=len(maps),
        images_per_second=len(maps) / seconds,
        classes=card.classes,
        split=split,
    )


def load_segmenter(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """A trained segmenter, in eval mode; its moving-average weights where the training kept them.

    Args:
        path: best.ckpt or last.ckpt of a run.
        device: where the network goes.

    Returns:
        The segmenter and its card.

    Raises:
        CheckpointError: if the file is missing, is no checkpoint of a segmenter, or would run code.
    """
    checkpoint = read_checkpoint(path)
    card = read_card(checkpoint, path, "segment")
    model = create_segmenter(load_config(base=card.recipe, cls=SegmentConfig), len(card.classes), weights=False)
    try:
        model.load_state_dict(network_weights(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights don't fit: {' '.join(str(error).split())[:300]}") from error
    return model.to(device).eval(), card


def _tell_problems(data: SegmentationData) -> None:
    if data.problems:
        tell(f"left out, {data.spec}: {in_words(data.problems, 'images that can not be used')}")


def make_card(config: SegmentConfig, classes: list[str]) -> ModelCard:
    """Return the card of a segmenter of these classes."""
    side = config.data.min_size or 0
    return ModelCard(
        task="segment",
        model=config.model.name,
        model_args={"backbone": config.model.backbone},
        classes=list(classes),
        # 0: images keep their size
        input_size=(3, side, side),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        interpolation="bilinear",
        crop_pct=1.0,
        recipe=config.to_dict(),
        versions=versions(),
    )


def _eval_loader(config: SegmentConfig, maps: LabelMaps, batch_size: int, workers: int, trainer: Any) -> Any:
    data = config.data
    images = EvalScenes(maps, segmentation_eval_transform(data.mean, data.std, data.min_size))
    batches = EvalBatches(len(images), batch_size, trainer.global_rank, trainer.world_size)
    return make_loader(images, batches, workers, on_gpu(trainer), as_lists)
