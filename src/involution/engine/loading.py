"""Loading a trained network and its card, for any task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from involution.engine.checkpoint import (
    CheckpointError,
    ModelCard,
    fill_network,
    read_card,
    read_checkpoint,
    read_recipe,
    versions,
)
from involution.engine.checks import check_config
from involution.engine.config import RunConfig
from involution.engine.devices import find_device
from involution.engine.task import get_task, task_names

if TYPE_CHECKING:
    from involution.engine.predictor import Predictor


def load(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", *, task: str | None = None
) -> tuple[nn.Module, ModelCard]:
    """A trained network in eval mode, with its moving-average weights if the training kept them.

    Args:
        path: best.ckpt or last.ckpt of a run.
        device: where the network goes.
        task: refuse a checkpoint of another task than this.

    Returns:
        The network and its card.

    Raises:
        CheckpointError: if the file is missing, not a checkpoint of this package, of another task, or would run code.
    """
    return load_contents(read_checkpoint(path), path, device, task=task)


def load_contents(
    checkpoint: Mapping[str, Any],
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    task: str | None = None,
) -> tuple[nn.Module, ModelCard]:
    """As `load`, of a checkpoint that `read_checkpoint` has read.

    Args:
        checkpoint: its contents.
        path: the file, for messages.
        device: where the network goes.
        task: refuse a checkpoint of another task than this.
    """
    card = read_card(checkpoint, path, task)
    if card.task not in task_names():
        raise CheckpointError(f"{path}: made for the task {card.task!r}, wanted {', '.join(task_names())}")
    spec = get_task(card.task)
    config = read_recipe(card, path, spec.config, check_config)
    channels = spec.describe(config)["input_size"][0]
    if channels != card.input_size[0]:
        raise CheckpointError(
            f"{path}: its recipe is for images of {channels} channels, its card for {card.input_size[0]}"
        )
    return fill_network(path, checkpoint, lambda: spec.build(config, len(card.classes), False), device), card


def load_predictor(path: str | os.PathLike[str], device: str = "auto", *, task: str | None = None) -> Predictor[Any]:
    """The predictor for a checkpoint of any task.

    Args:
        path: best.ckpt or last.ckpt of a run.
        device: Where the network runs; "auto" uses an accelerator if there is one.
        task: Refuse a checkpoint of another task than this.

    Raises:
        CheckpointError: If the file is missing, not a checkpoint of a training run, or for another task.
        ConfigError: If there is no such device.
    """
    network, card = load(path, find_device(device), task=task)
    return get_task(card.task).predictor(network, card)


def make_card(config: RunConfig, classes: Sequence[str], category_ids: Sequence[int] = ()) -> ModelCard:
    """The card of a run's checkpoints.

    Args:
        config: the settings of the run.
        classes: class names in the order of the outputs.
        category_ids: the data set's ids of these classes, if it has any.
    """
    fields: dict[str, Any] = {"interpolation": "bilinear", "crop_pct": 1.0, **get_task(config.task).describe(config)}
    return ModelCard(
        task=config.task,
        model=config.model.name,
        classes=list(classes),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        recipe=config.to_dict(),
        versions=versions(),
        category_ids=list(category_ids),
        **fields,
    )
