"""One training and evaluation step of a classifier, as Lightning wants it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from typing_extensions import override

from involution.engine.checkpoint import CARD_KEY, ModelCard
from involution.engine.config import ClassifyConfig
from involution.engine.loader import derive_seed
from involution.engine.optimizer import make_optimizer
from involution.engine.schedule import lr_factor

Batch = tuple[Tensor, Tensor]


class Scores(nn.Module):
    """Loss, top-1 and top-5 over a pass, each image counted once on whichever device saw it.

    Args:
        num_classes: number of classes.
        confusion: count the confusion matrix too.
    """

    def __init__(self, num_classes: int, confusion: bool = False) -> None:
        super().__init__()
        # sums, since MeanMetric either hides a loss that is no number or forgets the weights
        self.loss: Metric = SumMetric(nan_strategy="disable")
        self.count: Metric = SumMetric(nan_strategy="disable")
        self.top1: Metric = MulticlassAccuracy(num_classes, average="micro")
        self.top5: Metric = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")
        self.confusion: Metric | None = MulticlassConfusionMatrix(num_classes) if confusion else None

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: logits [N, classes], labels [N], its mean loss."""
        logits = logits.detach().float()
        self.loss.update(loss.detach() * len(labels))
        self.count.update(len(labels))
        self.top1.update(logits, labels)
        self.top5.update(logits, labels)
        if self.confusion is not None:
            self.confusion.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """The figures of the pass over all devices; then it starts afresh."""
        found = {
            "loss": self.loss.compute() / self.count.compute(),
            "accuracy": self.top1.compute(),
            "top5": self.top5.compute(),
        }
        if self.confusion is not None:
            found["confusion"] = self.confusion.compute()
        for metric in self.children():
            metric.reset()  # type: ignore[operator]
        return found


class Classifier(L.LightningModule):
    """A network with its loss, metrics, optimiser and schedule.

    Args:
        model: from images [N, C, H, W] to logits [N, classes].
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.
    """

    def __init__(self, model: nn.Module, config: ClassifyConfig, card: ModelCard, steps_per_epoch: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.card = card
        self.steps_per_epoch = steps_per_epoch
        # (epoch, batch) that training goes on with; set where a checkpoint is written
        self.position = (0, 0)
        num_classes = len(card.classes)
        self.train_scores = Scores(num_classes)
        self.eval_scores = Scores(num_classes, confusion=True)
        self.results: dict[str, Tensor] = {}
        self.mix = _mix(config, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        if self.config.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(images)
        return logits

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout and mixing follow from the step alone, so that a resumed run draws what it would have drawn
        torch.manual_seed(derive_seed(self.config.seed, self.current_epoch, batch_idx, self.global_rank, 1))

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        targets = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        logits = self(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.config.trainer.label_smoothing)
        self.train_scores.update(logits, labels, loss)
        return loss

    @override
    def on_validation_epoch_start(self) -> None:
        self._average_batchnorm()

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.eval_scores.update(logits, labels, F.cross_entropy(logits, labels))

    @override
    def on_validation_epoch_end(self) -> None:
        self.results = self.eval_scores.compute()

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def _average_batchnorm(self) -> None:
        # each device keeps statistics of its own images: what is evaluated and saved is their mean
        if self.trainer.world_size > 1:
            from timm.utils import distribute_bn

            distribute_bn(self.model, self.trainer.world_size, reduce=True)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = make_optimizer(self.model, self.config.optimizer)
        epochs = self.config.trainer.epochs
        schedule = self.config.schedule

        def factor(step: int) -> float:
            return lr_factor(step, self.steps_per_epoch, epochs, schedule)

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CARD_KEY] = {**self.card.to_dict(), "position": list(self.position)}


def _mix(config: ClassifyConfig, num_classes: int) -> Any:
    from torchvision.transforms import v2

    mixers = []
    if config.augment.mixup:
        mixers.append(v2.MixUp(alpha=config.augment.mixup, num_classes=num_classes))
    if config.augment.cutmix:
        mixers.append(v2.CutMix(alpha=config.augment.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixers) if mixers else None
