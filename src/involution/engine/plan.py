"""What a run is about to do: fitted to its data, and told before it starts."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from involution.data.errors import printable
from involution.engine.config import Config, RunConfig
from involution.engine.settings import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from involution.data.survey import Survey

# more classes are not counted one by one
_MANY = 12


def fitted(config: Config, num_images: int, processes: int) -> tuple[Config, list[str]]:
    """The settings as far as the data allows: a batch that is not larger, epochs for `trainer.steps`, a short warm-up.

    Args:
        config: the settings.
        num_images: training images.
        processes: how many share a batch.

    Returns:
        The settings, and what a user should know of them.

    Raises:
        ConfigError: if there are too few images for any batch.
    """
    notes = []
    size, unit = config.data.batch_size, processes * config.trainer.accumulate
    if num_images < size:
        largest = num_images // unit * unit
        if largest < 2:
            raise ConfigError(
                f"data.batch_size is {size}, but {config.data.spec} has only {num_images} training images; choose a "
                "smaller batch"
            )
        notes.append(
            f"data.batch_size is {size}, but {printable(config.data.spec)} has only {num_images:,} training "
            f"images: {largest} are taken"
        )
        config = replace(config, data=replace(config.data, batch_size=largest))
    steps = num_images // config.data.batch_size
    if config.trainer.steps is not None:
        epochs = math.ceil(config.trainer.steps / steps)
        config = replace(config, trainer=replace(config.trainer, epochs=epochs))
    whole = config.trainer.steps or steps * config.trainer.epochs
    if steps == 1 and whole > 1:
        notes.append(
            f"an epoch is a single step ({num_images:,} images, batches of {config.data.batch_size}), and "
            f"the whole training {whole:,}: choose a smaller --batch-size, or more --epochs"
        )
    schedule = config.schedule
    warmup = schedule.warmup_epochs * steps + schedule.warmup_steps
    # with less, the rate would never be what the settings say
    if warmup > whole / 2 and whole > 1:
        short = f"shortened to {whole // 2:,}"
        notes.append(f"the warm-up has {warmup:,.0f} steps, and the whole training {whole:,}: {short}")
        config = replace(config, schedule=replace(schedule, warmup_epochs=0.0, warmup_steps=whole // 2))
    return config, notes


def recipe(asked: RunConfig, config: RunConfig) -> dict[str, Any]:
    """The settings as a checkpoint keeps them: before they were fitted, so that a resumed run is fitted alike."""
    kept = config.to_dict()
    kept["data"]["batch_size"] = asked.data.batch_size
    kept["schedule"] = dataclasses.asdict(asked.schedule)
    return kept


def lines(
    config: RunConfig, network: nn.Module, device: torch.device, num_images: int, found: Survey | None
) -> list[str]:
    """What a run is, in words: classes, network, steps.

    Args:
        config: the settings, fitted.
        network: what is trained.
        device: where.
        num_images: training images.
        found: what the data set holds, if it was counted.
    """
    sizes = [(one.numel(), one.requires_grad) for one in network.parameters()]
    whole, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    learn = "" if learning == whole else f", of which {learning / 1e6:.3g} learn"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    name, backbone = config.model.name, getattr(config.model, "backbone", "")
    named = f"{name} on {backbone}" if backbone else name or type(network).__name__
    steps = num_images // config.data.batch_size
    epochs = config.trainer.epochs
    told = [
        f"network: {named}, {whole / 1e6:.3g} million parameters{learn}; on {where}",
        f"steps: {steps:,} an epoch, of {config.data.batch_size} images; {config.trainer.steps or steps * epochs:,} in "
        f"{epochs} epoch{'s' if epochs > 1 else ''}",
    ]
    if found is not None and "train" in found.splits:
        told.insert(0, f"classes: {_counted(found.classes, found.splits['train'].classes)}")
    return [printable(line) for line in told]


def _counted(classes: list[str], counts: dict[str, int]) -> str:
    few = len(classes) <= _MANY
    if not counts:
        # pixels of label maps are not counted before a training
        return f"{len(classes)}: {', '.join(classes)}" if few else f"{len(classes):,}"
    ordered = list(counts.items()) if few else sorted(counts.items(), key=lambda pair: pair[1])[:3]
    # of label maps the pixels are counted
    pixels = sum(counts.values()) > 1e6
    total = max(sum(counts.values()), 1)
    shown = ", ".join(f"{name} {count / total:.1%}" if pixels else f"{name} {count:,}" for name, count in ordered)
    return f"{len(classes)}{': ' if few else '; the rarest: '}{shown}"
