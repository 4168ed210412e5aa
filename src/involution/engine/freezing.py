"""Parts of the backbone that do not learn, for the whole training or its first epochs."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import nn
from typing_extensions import override

from involution.engine.config import ModelConfig
from involution.engine.trunk import chosen_parts


def freeze(network: nn.Module, config: ModelConfig) -> str | None:
    """Freeze what a training never trains, before the optimiser is made.

    Args:
        network: the classifier, detector or segmenter.
        config: its settings.

    Returns:
        What is frozen, in words; None for nothing.

    Raises:
        ConfigError: for a part that there is not.
    """
    if not isinstance(config.freeze, str):
        return None
    parameters, norms = chosen_parts(network, config.freeze)
    if config.freeze_epochs is None:
        for parameter in parameters:
            parameter.requires_grad_(False)
    count, total = (sum(one.numel() for one in some) for some in (parameters, network.parameters()))
    until = "" if config.freeze_epochs is None else f", for {config.freeze_epochs} epochs"
    kept = f" and the statistics of {len(norms)} batch norms" if norms else ""
    return f"frozen: {config.freeze}, {count:,} of {total:,} parameters{kept}{until}"


class Freezing(L.Callback):
    """Keeps parts frozen: their parameters as they are, their batch norms in eval mode.

    Args:
        parts: as `chosen_parts` takes them.
        epochs: how long; None for the whole training, and `freeze` has then frozen the parameters.
    """

    def __init__(self, parts: str, epochs: int | None) -> None:
        self.parts = parts
        self.epochs = epochs
        self._waiting: list[nn.Parameter] = []

    # a run resumed within an epoch does not start one
    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._apply(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._apply(trainer, pl_module)

    def _apply(self, trainer: L.Trainer, module: Any) -> None:
        frozen = self.epochs is None or trainer.current_epoch < self.epochs
        parameters, norms = chosen_parts(module.model, self.parts)
        for norm in norms:
            norm.train(not frozen)
        if self.epochs is None:
            return
        # several devices have agreed beforehand on whose gradients they share, so there they are computed and dropped
        self._waiting = parameters if frozen and trainer.world_size > 1 else []
        if trainer.world_size == 1:
            for parameter in parameters:
                parameter.requires_grad_(not frozen)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        for parameter in self._waiting:
            parameter.grad = None
