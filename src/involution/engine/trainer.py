"""Lightning's trainer, made from the settings of a run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from involution.engine.callbacks import EarlyStop, LeftOut, RunCheckpoints
from involution.engine.config import RunConfig
from involution.engine.divergence import NonFinite
from involution.engine.faults import lenient, quiet_threads
from involution.engine.freezing import Freezing
from involution.engine.loggers import make_logger
from involution.engine.progress import ProgressBar
from involution.engine.settings import ConfigError
from involution.engine.task import get_task


def make_trainer(config: RunConfig, recorder: Any, progress: bool, left_out: LeftOut | None = None, *more: Any) -> Any:
    """The trainer of a run, with more callbacks."""
    import lightning as L
    from lightning.pytorch.callbacks import EMAWeightAveraging

    # what they keep is up to date when the recorder saves it
    callbacks: list[L.Callback] = []
    if config.trainer.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.trainer.ema_decay))
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
    return _trainer(
        config,
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
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def make_eval_trainer(config: RunConfig, progress: bool, left_out: LeftOut) -> Any:
    """The trainer for an evaluation, which writes nothing."""
    from lightning.pytorch.callbacks import RichProgressBar

    return _trainer(
        config,
        logger=False,
        callbacks=[left_out, *([RichProgressBar()] if progress else [])],
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _trainer(config: RunConfig, **options: Any) -> Any:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        trainer = L.Trainer(**placement(config), **options)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"can't run on devices={config.devices}, trainer.accelerator={config.trainer.accelerator}: {error}"
        ) from error
    if trainer.precision != config.trainer.precision:
        # Lightning would silently use another one
        raise ConfigError(
            f"trainer.precision {config.trainer.precision} does not work on this device; choose {trainer.precision}"
        )
    return trainer


def placement(config: RunConfig) -> dict[str, Any]:
    """Where a trainer runs: as torchrun says, otherwise on `devices` devices."""
    from lightning.pytorch.strategies import DDPStrategy

    devices, nodes = config.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    # buffers are not broadcast, because evaluation may have fewer batches on one device than on another
    unused = get_task(config.task).unused_parameters
    alone = devices * nodes == 1
    strategy = "auto" if alone else DDPStrategy(broadcast_buffers=False, find_unused_parameters=unused)
    return {
        "accelerator": config.trainer.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": strategy,
        "precision": config.trainer.precision,
    }


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
