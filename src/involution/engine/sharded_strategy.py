"""Training on devices that share the weights out: what Lightning has to do otherwise than for whole networks."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from involution.engine.checkpoint import CARD_KEY
from involution.engine.run_folder import place
from involution.engine.sharded_checkpoint import (
    read_checkpoint_of,
    read_parts,
    share_out,
    take_parts,
    whole_on_first,
    with_parts,
    write_parts,
)
from involution.engine.sharding import gather, release, shard


class ShardedStrategy(DDPStrategy):
    """One process for each device, as in DDP, each with its part of every weight.

    Args:
        unused: some parameters may have no part in the loss of a device.
    """

    def __init__(self, unused: bool) -> None:
        super().__init__()
        self.unused = unused

    @functools.cached_property
    def mesh(self) -> Any:
        """The devices."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.root_device.type, (self.world_size,))

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @override
    def configure_ddp(self) -> None:
        # in the place of DistributedDataParallel
        shard(self.lightning_module.model, self.mesh, unused=self.unused)  # type: ignore[union-attr,arg-type]

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        # in the midst of a validation each device has it all
        release(self.lightning_module.model)  # type: ignore[union-attr,arg-type]
        return super().lightning_module_state_dict()

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        file = Path(filepath)
        if storage_options:
            # best.ckpt is one file
            storage_options = {**storage_options, "weights": whole_on_first(checkpoint["state_dict"])}
        content, tensors = take_parts(checkpoint)
        epoch, batch = place({CARD_KEY: content[CARD_KEY]})
        folder = file.parent / f"shards-{epoch}-{batch}-{self.broadcast(secrets.token_hex(4))}"
        shards = write_parts(folder, tensors)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(with_parts(content, shards), file, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        file = Path(checkpoint_path)
        content = read_checkpoint_of(file)
        read_parts(content, file, self.mesh)
        share_out(content, self.lightning_module.state_dict(), self.optimizers)  # type: ignore[union-attr]
        return content

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        release(self.lightning_module.model)  # type: ignore[union-attr,arg-type]
        super().load_model_state_dict(checkpoint, strict)

    @override
    def teardown(self) -> None:
        # what is shared out stays where it is
        assert self.cluster_environment is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


class Gathering(L.Callback):
    """Gives each device all weights during a validation, in which one may have a batch more than another."""

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        gather(pl_module.model)

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        release(pl_module.model)


class ShardedAverage(EMAWeightAveraging):
    """A moving average of weights that is shared out as they are."""

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        assert self._average_model is not None
        strategy: Any = trainer.strategy
        shard(self._average_model.module.model, strategy.mesh)  # type: ignore[arg-type]

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        # before the average and the weights change places
        release(pl_module.model)
        super().on_validation_epoch_end(trainer, pl_module)
