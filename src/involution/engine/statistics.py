"""The statistics of batch norms, which each device keeps of its own images, in checkpoints within an epoch."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

# in a checkpoint: for each device name -> statistics
KEY = "statistics"


class DeviceStatistics(L.Callback):
    """Keeps what each device's batch norms have seen, so that a resumed run evaluates what an undisturbed one does.

    On another number of devices all go on from the mean.
    """

    def __init__(self) -> None:
        self._found: list[dict[str, Tensor]] = []

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        own = {name: value.cpu() for name, value in _statistics(pl_module.model).items()}
        if trainer.world_size == 1 or not own:
            return
        everywhere: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everywhere, own)
        checkpoint[KEY] = everywhere

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        found: Any = checkpoint.get(KEY)
        own = _statistics(pl_module.model)
        fits = isinstance(found, list) and found and all(_fit(one, own) for one in found)
        self._found = found if fits else []

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        # before, the devices are made alike
        if not self._found:
            return
        same = len(self._found) == trainer.world_size
        for name, value in _statistics(pl_module.model).items():
            parts = [one[name] for one in self._found]
            value.copy_(parts[trainer.global_rank] if same else torch.stack(parts).mean(0))
        self._found = []


def _statistics(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))}


def _fit(found: Any, own: dict[str, Tensor]) -> bool:
    """Whether statistics of a file are those of a network, and finite."""
    if not isinstance(found, dict) or found.keys() != own.keys():
        return False
    values = [(found[name], value) for name, value in own.items()]
    return all(
        isinstance(one, Tensor) and one.shape == value.shape and bool(torch.isfinite(one).all())
        for one, value in values
    )
