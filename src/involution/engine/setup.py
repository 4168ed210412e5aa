"""The parts of a run, made from its settings."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from involution.data.classification import ClassificationData
from involution.data.transforms import eval_transform, train_transforms
from involution.engine.checkpoint import ModelCard, create_network, versions
from involution.engine.config import ClassifyConfig, ConfigError, DataConfig, RunConfig
from involution.engine.loader import EvalBatches, EvalImages, TrainBatches, TrainImages, make_loader
from involution.engine.weights import load_weights


def is_main_process() -> bool:
    """Whether this is the first, or the only, of the processes that share a job."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def make_module(config: ClassifyConfig, data: ClassificationData, steps_per_epoch: int, fresh: bool) -> Any:
    """The network, with its weights and card, ready to be trained; a run that goes on gets its weights later."""
    from involution.engine.module import Classifier

    torch.manual_seed(config.seed)
    model = create_network(config.model.name, config.model.args, len(data.classes), config.data.channels)
    _check_input(model, config)
    if config.model.weights and fresh:
        load_weights(model, config.model.weights)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    side = config.data.image_size
    card = ModelCard(
        task="classify",
        model=config.model.name,
        model_args=dict(config.model.args),
        classes=list(data.classes),
        input_size=(config.data.channels, side, side),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        interpolation=config.data.interpolation,
        crop_pct=config.data.crop_pct,
        recipe=config.to_dict(),
        versions=versions(),
    )
    return Classifier(model, config, card, steps_per_epoch)


def _check_input(model: torch.nn.Module, config: ClassifyConfig) -> None:
    """Raise `ConfigError` for a network that can't take images of this size, such as a ViT of another."""
    side = config.data.image_size
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, config.data.channels, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{config.model.name} can't take images of {side} x {side} pixels: {error}") from error
    model.train()


def make_trainer(config: RunConfig, recorder: Any, progress: bool) -> Any:
    """The trainer of a run."""
    import lightning as L
    from lightning.pytorch.callbacks import EMAWeightAveraging
    from lightning.pytorch.loggers import TensorBoardLogger

    from involution.engine.callbacks import AtomicCheckpointIO
    from involution.engine.progress import ProgressBar

    # the average is updated before the recorder saves it
    callbacks: list[L.Callback] = []
    if config.trainer.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.trainer.ema_decay))
    callbacks.append(recorder)
    if progress:
        callbacks.append(ProgressBar(config.name))
    run_dir = recorder.run_dir
    return _trainer(
        config,
        max_epochs=config.trainer.epochs,
        gradient_clip_val=config.trainer.clip_grad_norm,
        accumulate_grad_batches=config.trainer.accumulate,
        sync_batchnorm=config.trainer.sync_batchnorm,
        logger=TensorBoardLogger(run_dir, name="", version="tensorboard"),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def make_eval_trainer(config: RunConfig, progress: bool) -> Any:
    """The trainer of an evaluation, which writes nothing."""
    from lightning.pytorch.callbacks import RichProgressBar

    return _trainer(
        config,
        logger=False,
        callbacks=[RichProgressBar()] if progress else [],
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
        # Lightning takes another one and goes on
        raise ConfigError(
            f"trainer.precision {config.trainer.precision} does not work on this device; choose {trainer.precision}"
        )
    return trainer


def placement(config: RunConfig) -> dict[str, Any]:
    """Where a trainer runs: under torchrun as that says, else on `devices` devices."""
    from lightning.pytorch.strategies import DDPStrategy

    devices, nodes = config.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    # buffers are not broadcast: evaluation may take fewer batches on one device than on another
    # a level of a detector's pyramid may have no box in a batch, and then no gradient
    unused = config.task == "detect"
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


def config_eval_transform(data: DataConfig) -> Any:
    """The transform that evaluation under these settings uses."""
    return eval_transform(data.image_size, data.channels, data.mean, data.std, data.interpolation, data.crop_pct)


def make_loaders(
    config: ClassifyConfig, data: ClassificationData, trainer: Any, position: tuple[int, int]
) -> tuple[Any, Any]:
    """Loaders of the training and validation images, for this device."""
    rank, world, settings = trainer.global_rank, trainer.world_size, config.data
    fixed, random = train_transforms(
        config.augment,
        settings.image_size,
        settings.channels,
        settings.mean,
        settings.std,
        settings.interpolation,
    )
    train_images = TrainImages(data.train, fixed, random, config.seed, settings.cache)
    val_images = EvalImages(data.val, config_eval_transform(settings), settings.cache)
    train_batches = TrainBatches(
        len(train_images),
        settings.batch_size,
        config.trainer.accumulate,
        config.seed,
        rank,
        world,
        position,
    )
    val_batches = EvalBatches(len(val_images), max(64, settings.batch_size // world), rank, world)
    gpu = on_gpu(trainer)
    return (
        make_loader(train_images, train_batches, settings.workers, gpu),
        make_loader(val_images, val_batches, settings.workers, gpu),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advice away: what it warns of here is meant so."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            # Lightning's own use of torch
            ".*treespec, LeafSpec.*",
            ".*does not have many workers.*",
            # the answer to it is the error of `_trainer`
            ".*AMP with fp16 is not supported on CPU.*",
            # torch's new name does something else
            ".*broadcast_buffers. is deprecated.*",
            ".*dataloader is not resumable.*",
            ".*module.* in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
