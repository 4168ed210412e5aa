"""Checkpoints: Lightning's files with a card that says what the network is and how it wants its images."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

CARD_KEY = "involution"
_PREFIX = "model."


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken, of another kind, or that would run code."""


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use a trained network, apart from its weights.

    Attributes:
        task: `classify` or `detect`.
        model: name in timm's registry, or of the detector.
        model_args: further arguments of its constructor.
        classes: class names in the order of the outputs.
        input_size: (C, H, W).
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        interpolation: of the resize, bilinear or bicubic.
        crop_pct: the shorter side is resized to H / crop_pct, then the centre is cropped.
        recipe: the settings of the training, as `RunConfig.to_dict` gives them.
        versions: of the libraries that trained it.
        category_ids: a detector's category ids in the data set, in the order of the classes.
    """

    task: str
    model: str
    model_args: dict[str, Any]
    classes: list[str]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    recipe: dict[str, Any]
    versions: dict[str, str]
    category_ids: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The card behind `to_dict`; fields that another version added are left out."""
        needed = [item.name for item in fields(cls) if item.default_factory is MISSING or item.name in values]
        known = {name: values[name] for name in needed}
        for name in ("input_size", "mean", "std"):
            known[name] = tuple(known[name])
        return cls(**known)


def read_checkpoint(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Any]:
    """The contents of a training checkpoint; nothing in it can run code.

    Raises:
        CheckpointError: if the file is missing, is no checkpoint of this package, or would run code.
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; wanted a checkpoint, such as best.ckpt in the folder of a run")
    if not file.is_file():
        raise CheckpointError(f"no such checkpoint: {file}")
    try:
        found = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: refused; it is no plain checkpoint and unpickling it could run code") from error
    except Exception as error:
        # the restricted reader fails in every way on bytes that are something else
        raise CheckpointError(f"{file}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(found, dict) or not isinstance(found.get(CARD_KEY), dict) or "state_dict" not in found:
        raise CheckpointError(
            f"{file}: not a checkpoint of a training by `involution` (no {CARD_KEY!r} entry); "
            "weights alone are converted by `involution convert`"
        )
    return found


def read_card(checkpoint: Mapping[str, Any], path: str | os.PathLike[str], task: str = "classify") -> ModelCard:
    """The card in a checkpoint that `read_checkpoint` gave, if it is of this task."""
    try:
        card = ModelCard.from_dict(checkpoint[CARD_KEY])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its description is incomplete ({error})") from error
    if card.task != task:
        raise CheckpointError(f"{path}: made for the task {card.task!r}, wanted {task}")
    return card


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's part of a checkpoint's weights, under the network's own names."""
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix(_PREFIX): value for name, value in weights if name.startswith(_PREFIX)}


def create_network(name: str, args: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    """Make a network by its name in timm's registry, RedNet included.

    Raises:
        ConfigError: for an unknown name, or arguments that the network does not take.
    """
    import timm

    import involution.models  # noqa: F401  (registers RedNet)
    from involution.data.errors import nearest
    from involution.engine.config import ConfigError

    if not timm.is_model(name):
        raise ConfigError(f"no model named {name!r}{nearest(name, timm.list_models())}")
    try:
        return timm.create_model(name, num_classes=num_classes, in_chans=channels, **args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} can't be made with {dict(args)}: {error}") from error


def load_classifier(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """A trained classifier, in eval mode; its moving-average weights where the training kept them.

    Args:
        path: best.ckpt or last.ckpt of a run.
        device: where the network goes.

    Returns:
        The network and its card.

    Raises:
        CheckpointError: if the file is missing, is no checkpoint of this package, or would run code.
    """
    checkpoint = read_checkpoint(path)
    card = read_card(checkpoint, path)
    network = create_network(card.model, card.model_args, len(card.classes), card.input_size[0])
    try:
        network.load_state_dict(network_weights(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights don't fit {card.model}: {_first_lines(error)}") from error
    return network.to(device).eval(), card


def _first_lines(error: RuntimeError) -> str:
    return " ".join(str(error).split())[:300]


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a training."""
    import lightning
    import timm
    import torchvision

    import involution

    modules = {
        "involution": involution,
        "torch": torch,
        "torchvision": torchvision,
        "timm": timm,
        "lightning": lightning,
    }
    return {name: str(module.__version__) for name, module in modules.items()}
