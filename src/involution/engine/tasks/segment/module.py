"""One training and evaluation step of a segmenter, as a Lightning module."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override

from involution.data.label_code import IGNORED
from involution.engine.checkpoint import ModelCard
from involution.engine.module import TaskModule
from involution.engine.settings import ConfigError
from involution.engine.tasks.segment.config import SegmentConfig

# weight of the auxiliary head's loss
_AUXILIARY = 0.4
Batch = tuple[list[Tensor], list[Tensor]]


def intersection_over_union(confusion: Tensor) -> Tensor:
    """IoU of each class [classes] from counts [classes, classes]; NaN for a class in neither rows nor columns."""
    counts = confusion.double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


class SegmentationTask(TaskModule):
    """A segmenter with its loss, mean IoU, optimiser and schedule.

    Args:
        model: from images [N, 3, H, W] to logits [N, classes, H, W], in training possibly also auxiliary ones.
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.
    """

    monitor = "miou"
    config: SegmentConfig

    def __init__(self, model: nn.Module, config: SegmentConfig, card: ModelCard, steps_per_epoch: int) -> None:
        super().__init__(model, config, card, steps_per_epoch)
        self.register_buffer("class_weights", _weights(config, card.classes), persistent=False)
        self.confusion = MulticlassConfusionMatrix(len(card.classes), ignore_index=IGNORED)
        self.errors: list[float] = []
        # labels that the label maps can't have, which have no part in the mean
        self.void: list[int] = []

    @functools.cached_property
    def dice(self) -> nn.Module:
        """The Dice loss, which only a training with a weight for it needs."""
        from segmentation_models_pytorch.losses import DiceLoss

        loss: nn.Module = DiceLoss("multiclass", ignore_index=IGNORED)
        return loss

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
        self.count_loss(loss, len(images))
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # a crop may have no labelled pixel at all, and the mean of none is NaN
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
            logits = self.restricted(self.model(torch.stack(inputs)))
            for one, truth in zip(logits, truths, strict=True):
                # the counts of this image alone, which are added to those of the others
                counts = self.confusion(_at_size(one, truth.shape).argmax(0)[None], truth[None])
                self.errors.append(1.0 - float(intersection_over_union(counts).nanmean().nan_to_num(1.0)))

    @override
    def on_validation_epoch_end(self) -> None:
        counts = self.confusion.compute()
        self.confusion.reset()
        iou = intersection_over_union(counts)
        iou[self.void] = torch.nan
        self.results = {
            "confusion": counts,
            "iou": iou,
            "miou": iou.nanmean(),
            "accuracy": counts.diagonal().sum() / counts.sum(),
            "difficulty": self.in_order(self.errors),
        }
        self.errors = []

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def val_figures(self) -> dict[str, float]:
        return {name: float(self.results[name]) for name in ("miou", "accuracy")}


def _weights(config: SegmentConfig, classes: list[str]) -> Tensor:
    weights = config.model.class_weights
    if weights is None:
        return torch.ones(len(classes))
    if len(weights) != len(classes):
        raise ConfigError(f"model.class_weights must have {len(classes)} weights, one per class, got {len(weights)}")
    return torch.tensor(weights)


def _at_size(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits [classes, h, w] at the size of the labels."""
    if logits.shape[1:] == size:
        return logits
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
