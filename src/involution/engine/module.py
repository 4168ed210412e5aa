"""The Lightning module: a network with its optimiser and schedule, to which tasks add their steps."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import SumMetric
from typing_extensions import override

from involution.engine.checkpoint import CARD_KEY, ModelCard
from involution.engine.config import RunConfig
from involution.engine.loader import derive_seed
from involution.engine.optimizer import make_optimizer
from involution.engine.predictor import among
from involution.engine.schedule import lr_factor
from involution.engine.split_record import CONTENTS, LABELS
from involution.engine.split_record import KEY as SPLIT


class TaskModule(L.LightningModule):
    """A network with optimiser and schedule, to which a task adds its steps and figures.

    Args:
        model: the network.
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.

    Attributes:
        monitor: name of the figure in `val_figures` that chooses the best checkpoint; larger is better.
        position: (epoch, batch) to resume from; set when a checkpoint is written.
        split: a number for each image of each split, as `split_record.record` gives it.
        split_contents: what the images of each split hold, as `split_record.contents` gives it.
        split_labels: what their labels say, as `split_record.labels` gives it.
        results: figures of the last pass over validation or test images.
        within: labels among which it is measured, None for all.
    """

    monitor: ClassVar[str]

    def __init__(self, model: nn.Module, config: RunConfig, card: ModelCard, steps_per_epoch: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.card = card
        self.steps_per_epoch = steps_per_epoch
        self.position = (0, 0)
        self.split: dict[str, Tensor] = {}
        self.split_contents: dict[str, Tensor] = {}
        self.split_labels: dict[str, Tensor] = {}
        self.results: dict[str, Any] = {}
        self.within: list[int] | None = None
        # sums, because MeanMetric either hides a NaN loss or ignores the weights
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.loss_count = SumMetric(nan_strategy="disable")

    def count_loss(self, loss: Tensor, images: int) -> None:
        """Add the mean loss of a batch to `train_figures`."""
        loss, finite = loss.detach(), torch.isfinite(loss.detach())
        # the step is left out, or the training ends
        self.loss_sum.update(torch.where(finite, loss * images, 0.0))
        self.loss_count.update(finite * images)

    def restricted(self, logits: Tensor) -> Tensor:
        """Logits [N, classes, ...] without the classes that it is not measured among."""
        return among(logits, self.within)

    def see_training_images(self, images: Any) -> None:
        """Take what the loss needs from the training split of the data set, before a training starts."""

    def from_all_devices(self, values: list[Any]) -> list[list[Any]]:
        """A list from each device."""
        if self.trainer.world_size == 1:
            return [values]
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, values)
        return parts

    def in_order(self, values: list[float]) -> list[float]:
        """One number for each image that this device was given, as a list for all images, in the split's order."""
        parts = self.from_all_devices(values)
        whole = [0.0] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            # as `EvalBatches` deals them out
            whole[rank :: len(parts)] = part
        return whole

    def train_figures(self) -> dict[str, float]:
        """Figures of the training images over the epoch, including `loss`; then reset them."""
        found = {"loss": float(self.loss_sum.compute() / self.loss_count.compute())}
        self.loss_sum.reset()
        self.loss_count.reset()
        return found

    def val_figures(self) -> dict[str, float]:
        """Figures of the last validation."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """What the last pass leaves out of its figures, a line each."""
        return []

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # random numbers depend only on the step, so that a resumed run draws the same ones
        torch.manual_seed(derive_seed(self.config.seed, self.current_epoch, batch_idx, self.global_rank, 1))

    @override
    def on_validation_epoch_start(self) -> None:
        self.average_norms()

    def average_norms(self, network: nn.Module | None = None) -> None:
        """Let all devices have the mean of their statistics of batch norms, of the network or another one like it.

        Each device keeps statistics of its own images; their mean is evaluated and saved.
        """
        if self.trainer.world_size > 1:
            from timm.utils import distribute_bn

            distribute_bn(network or self.model, self.trainer.world_size, reduce=True)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = make_optimizer(self.model, self.config.optimizer)
        trainer = self.config.trainer
        epochs = trainer.epochs if trainer.steps is None else trainer.steps / self.steps_per_epoch
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
        checkpoint[SPLIT] = self.split
        checkpoint[CONTENTS] = self.split_contents
        checkpoint[LABELS] = self.split_labels
