"""Lightning's trainer, made from the settings of a run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from involution.data.addresses import is_remote
from involution.engine.callbacks import EarlyStop, LeftOut, RunCheckpoints
from involution.engine.config import RunConfig
from involution.engine.divergence import NonFinite
from involution.engine.faults import lenient, quiet_threads
from involution.engine.freezing import Freezing
from involution.engine.loggers import make_logger
from involution.engine.precision import AUTO, PLAIN
from involution.engine.process import tell
from involution.engine.progress import ProgressBar
from involution.engine.settings import ConfigError
from involution.engine.task import get_task

# of Lightning's own
_QUIET: dict[str, Any] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def make_trainer(config: RunConfig, recorder: Any, progress: bool, left_out: LeftOut | None = None, *more: Any) -> Any:
    """The trainer of a run, with more callbacks."""
    import lightning as L
    from lightning.pytorch.callbacks import EMAWeightAveraging

    # what they keep is up to date when the recorder saves it
    callbacks: list[L.Callback] = []
    where = placement(config)
    sharded = config.trainer.strategy == "fsdp"
    if config.trainer.ema_decay is not None:
        average: Any = _sharded().ShardedAverage if sharded else EMAWeightAveraging
        callbacks.append(average(decay=config.trainer.ema_decay))
    if sharded:
        # after the average has taken the place of the weights
        callbacks.append(_sharded().Gathering())
    # before the recorder, which would save what a broken image is to prevent
    if left_out is not None:
        callbacks.append(left_out)
    if isinstance(config.model.freeze, str):
        callbacks.append(Freezing(config.model.freeze, config.model.freeze_epochs))
    if config.trainer.patience is not None:
        callbacks.append(EarlyStop(config.trainer.patience))
    callbacks += [NonFinite(config.trainer.on_nan), *more, recorder]
    if progress:
        callbacks.append(ProgressBar(config.name))
    run_dir = recorder.run_dir
    if sharded and is_remote(run_dir):
        raise ConfigError(
            f"trainer.strategy fsdp writes its checkpoints to a folder that all processes share, not to {run_dir}"
        )
    trainer = _trainer(
        config,
        where,
        # where Lightning would look for checkpoints of a SLURM job
        default_root_dir=str(run_dir),
        max_epochs=config.trainer.epochs,
        gradient_clip_val=config.trainer.clip_grad_norm,
        accumulate_grad_batches=config.trainer.accumulate,
        sync_batchnorm=config.trainer.sync_batchnorm,
        logger=lenient(make_logger(config, run_dir, recorder.logged_as)),
        callbacks=callbacks,
        plugins=[RunCheckpoints(config.trainer.keep)],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **_QUIET,
    )
    _check_devices(config, trainer)
    return trainer


def _check_devices(config: RunConfig, trainer: Any) -> None:
    """Raise `ConfigError` for settings that do not go with the number or kind of the devices."""
    world, size, parts = trainer.world_size, config.data.batch_size, config.trainer.accumulate
    if size % (world * parts):
        raise ConfigError(
            f"data.batch_size ({size}) must be a multiple of processes x trainer.accumulate ({world} x {parts})"
        )
    if world > 1 and config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise ConfigError("trainer.sync_batchnorm works on GPUs alone: leave it out on CPUs")


def check_placement(config: RunConfig, *, whole: bool = False) -> torch.device:
    """Refuse devices that there are not, and settings that don't go with them, before any data is read.

    Args:
        config: the settings.
        whole: for an evaluation.

    Returns:
        The device of this process.

    Raises:
        ConfigError: naming them.
    """
    trainer = _lightning(config, placement(config, whole=whole), logger=False, **_QUIET)
    if not whole:
        _check_devices(config, trainer)
    device: torch.device = trainer.strategy.root_device
    return device


def make_eval_trainer(config: RunConfig, progress: bool, left_out: LeftOut) -> Any:
    """The trainer for an evaluation, which writes nothing."""
    from lightning.pytorch.callbacks import RichProgressBar

    return _trainer(
        config,
        placement(config, whole=True),
        logger=False,
        callbacks=[left_out, *([RichProgressBar()] if progress else [])],
        **{**_QUIET, "enable_progress_bar": progress},
    )


def _sharded() -> Any:
    from involution.engine import sharded_strategy

    return sharded_strategy


def _trainer(config: RunConfig, where: dict[str, Any], **options: Any) -> Any:
    trainer = _lightning(config, where, **options)
    _meet_anew(trainer.strategy.root_device)
    return trainer


def _lightning(config: RunConfig, where: dict[str, Any], **options: Any) -> Any:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        trainer = L.Trainer(**where, **options)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"can't run on devices={config.devices}, trainer.accelerator={config.trainer.accelerator}: {error}"
        ) from error
    if trainer.precision != where["precision"]:
        # Lightning would silently use another one
        raise ConfigError(
            f"trainer.precision {where['precision']} does not work on this device; choose {trainer.precision}"
        )
    return trainer


def placement(config: RunConfig, *, whole: bool = False) -> dict[str, Any]:
    """Where a trainer runs: as torchrun says, otherwise on `devices` devices.

    Args:
        config: the settings.
        whole: each device has the whole network, whatever the settings say.

    Raises:
        ConfigError: for a strategy that does not go with the other settings.
    """
    from lightning.pytorch.strategies import DDPStrategy

    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if _by_torchrun() else config.devices
    nodes = processes(config) // devices
    # buffers are not broadcast, because evaluation may have fewer batches on one device than on another
    unused = get_task(config.task).unused_parameters
    alone = devices * nodes == 1
    strategy: Any = "auto" if alone else DDPStrategy(broadcast_buffers=False, find_unused_parameters=unused)
    if config.trainer.strategy == "fsdp" and not whole:
        if alone:
            raise ConfigError(
                "trainer.strategy fsdp shares the weights out among several devices, and there is one: set --devices "
                "to 2 or more, or leave it out"
            )
        if config.trainer.precision == "16-mixed":
            raise ConfigError("trainer.strategy fsdp does not go with trainer.precision 16-mixed; choose bf16-mixed")
        if config.trainer.activation_checkpointing == "selective":
            raise ConfigError(
                "trainer.strategy fsdp does not go with trainer.activation_checkpointing selective; choose true"
            )
        strategy = _sharded().ShardedStrategy(unused)
    return {
        "accelerator": config.trainer.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": strategy,
        # what has not been chosen yet, before any data is read
        "precision": PLAIN if config.trainer.precision == AUTO else config.trainer.precision,
    }


def processes(config: RunConfig) -> int:
    """How many processes share a run: as torchrun says, otherwise one for each device."""
    return int(os.environ["WORLD_SIZE"]) if _by_torchrun() else config.devices


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _meet_anew(device: Any) -> None:
    """Let processes that torchrun started again meet each other, and not those that died.

    torchrun's agent keeps one store for all of its attempts (PyTorch issue 135712): the addresses of dead processes are
    still in it, and whoever reads them waits for half an hour. On one machine the attempts are numbered alike in all
    processes, so each gets a part of the store to itself.

    Raises:
        ConfigError: on several machines, which number the attempts each for itself.
    """
    import torch.distributed as dist

    if not _by_torchrun() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    attempt, several = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["GROUP_WORLD_SIZE"]) > 1
    remedy = "start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of each machine"
    if several and attempt:
        raise ConfigError(f"torchrun started this process again with addresses of dead ones: {remedy}")
    if several and int(os.environ["TORCHELASTIC_MAX_RESTARTS"]):
        tell(f"note: torchrun could not start these processes again after one has died: {remedy}")
    if attempt:
        address, port, world = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
        store = dist.PrefixStore(f"attempt {attempt}", dist.TCPStore(address, port, world, is_master=False))
        backend = dist.get_default_backend_for_device(device)
        dist.init_process_group(backend, store=store, rank=int(os.environ["RANK"]), world_size=world)


def on_gpu(trainer: Any) -> bool:
    """Whether the trainer works on a CUDA device."""
    return bool(trainer.strategy.root_device.type == "cuda")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advice: what it warns about here is intended."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), quiet_threads():
        for message in (
            # Lightning's own use of torch
            ".*treespec, LeafSpec.*",
            ".*does not have many workers.*",
            # `_trainer` raises an error for it
            ".*AMP with fp16 is not supported on CPU.*",
            # torch's new option does something else
            ".*broadcast_buffers. is deprecated.*",
            ".*dataloader is not resumable.*",
            # the weights of a 1×1 layer are the same in either memory order
            ".*Grad strides do not match bucket view strides.*",
            ".*module.* in eval mode at the start of training.*",
            # a resumed run may be told to stop early, or no longer
            ".*callbacks used to create the checkpoint need to be provided.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
