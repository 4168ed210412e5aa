"""One training and evaluation step of a classifier, as a Lightning module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from typing_extensions import override

from involution.data.labelled import balanced_weights, labels_of
from involution.engine.checkpoint import ModelCard
from involution.engine.module import TaskModule
from involution.engine.tasks.classify.config import ClassifyConfig

Batch = tuple[Tensor, Tensor]
# of so many classes the right one is always among the best five
_FEW = 5


class Scores(nn.Module):
    """Loss, top-1 and perhaps top-5 over a pass, each image counted once, on whichever device saw it.

    Args:
        num_classes: number of classes.
        confusion: count the confusion matrix too.
    """

    def __init__(self, num_classes: int, confusion: bool = False) -> None:
        super().__init__()
        # sums, because MeanMetric either hides a NaN loss or ignores the weights
        self.loss: Metric = SumMetric(nan_strategy="disable")
        self.count: Metric = SumMetric(nan_strategy="disable")
        self.top1: Metric = MulticlassAccuracy(num_classes, average="micro")
        self.top5: Metric | None = None
        if num_classes > _FEW:
            self.top5 = MulticlassAccuracy(num_classes, top_k=5, average="micro")
        self.confusion: Metric | None = MulticlassConfusionMatrix(num_classes) if confusion else None

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: logits [N, classes], labels [N], its mean loss."""
        logits = logits.detach().float()
        loss, finite = loss.detach(), torch.isfinite(loss.detach())
        # in training the step is left out, or the training ends
        counts = finite | (not self.training)
        self.loss.update(torch.where(counts, loss * len(labels), 0.0))
        self.count.update(counts * len(labels))
        self.top1.update(logits, labels)
        if self.top5 is not None:
            self.top5.update(logits, labels)
        if self.confusion is not None:
            self.confusion.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """The figures of the pass over all devices; then reset them."""
        found = {
            "loss": self.loss.compute() / self.count.compute(),
            "accuracy": self.top1.compute(),
        }
        if self.top5 is not None:
            found["top5"] = self.top5.compute()
        if self.confusion is not None:
            found["confusion"] = self.confusion.compute()
        for metric in self.children():
            metric.reset()  # type: ignore[operator]
        return found


class ClassificationTask(TaskModule):
    """A classifier with its loss, metrics, optimiser and schedule.

    Args:
        model: from images [N, C, H, W] to logits [N, classes].
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.
    """

    monitor = "accuracy"
    config: ClassifyConfig

    def __init__(self, model: nn.Module, config: ClassifyConfig, card: ModelCard, steps_per_epoch: int) -> None:
        super().__init__(model, config, card, steps_per_epoch)
        num_classes = len(card.classes)
        self.train_scores = Scores(num_classes)
        self.eval_scores = Scores(num_classes, confusion=True)
        self.mix = _mix(config, num_classes)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)
        self.surprises: list[float] = []

    @override
    def see_training_images(self, images: Any) -> None:
        if self.config.data.balance == "loss":
            self.class_weights = torch.from_numpy(balanced_weights(labels_of(images), len(self.card.classes))).float()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        if self.config.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(images)
        return logits

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        targets = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        logits = self(images)
        smoothing = self.config.trainer.label_smoothing
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        loss = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
        self.train_scores.update(logits, labels, loss)
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self.restricted(self(images))
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.surprises += losses.tolist()
        self.eval_scores.update(logits, labels, losses.mean())

    @override
    def on_validation_epoch_end(self) -> None:
        self.results = {**self.eval_scores.compute(), "difficulty": self.in_order(self.surprises)}
        if self.within is not None and len(self.within) <= _FEW:
            self.results.pop("top5", None)
        self.surprises = []

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def train_figures(self) -> dict[str, float]:
        found = self.train_scores.compute()
        return {name: float(found[name]) for name in ("loss", "accuracy")}

    @override
    def val_figures(self) -> dict[str, float]:
        return {name: float(self.results[name]) for name in ("loss", "accuracy")}


def _mix(config: ClassifyConfig, num_classes: int) -> Any:
    from torchvision.transforms import v2

    mixers = []
    if config.augment.mixup:
        mixers.append(v2.MixUp(alpha=config.augment.mixup, num_classes=num_classes))
    if config.augment.cutmix:
        mixers.append(v2.CutMix(alpha=config.augment.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixers) if mixers else None
