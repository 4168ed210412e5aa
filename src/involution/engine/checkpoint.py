"""Checkpoints: Lightning's files, with a card that says what the network is and how its images are prepared."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from involution.data.addresses import on_this_machine
from involution.engine.card import ModelCard
from involution.engine.config import Config
from involution.engine.converted import as_checkpoint
from involution.models.checkpoint import check_entries
from involution.models.errors import CheckpointError
from involution.models.readers import check_tensors, read_file
from involution.models.shards import Shards
from involution.models.weights import locate
from involution.plain import plain, shown

__all__ = [
    "CARD_KEY",
    "CheckpointError",
    "ModelCard",
    "create_network",
    "fill_network",
    "network_weights",
    "read_card",
    "read_checkpoint",
    "read_recipe",
    "versions",
]

CARD_KEY = "involution"
_PREFIX = "model."


def read_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", *, whole: bool = True
) -> dict[str, Any]:
    """The contents of a training checkpoint; nothing in it can run code, and its weights are finite numbers.

    Of a converted classifier the card is made from what its file says. The name of published weights stands for their
    file on this machine, which is downloaded if need be.

    Args:
        path: the file, or the name of published weights.
        device: where the tensors go.
        whole: read the tensors of a sharded training; otherwise they have shapes alone.

    Raises:
        CheckpointError: if the file is missing, damaged, not a checkpoint of this package, or would run code.
    """
    with on_this_machine(path) as file:
        return _read(locate(file), device, whole)


def _read(path: Path, device: str | torch.device, whole: bool) -> dict[str, Any]:
    found, metadata = read_file(path, device, whole=whole)
    if "model" in metadata:
        return as_checkpoint(found, metadata, path)
    if not isinstance(found, dict) or not isinstance(found.get(CARD_KEY), dict) or "state_dict" not in found:
        raise CheckpointError(
            f"{path}: not a checkpoint of a training by `involution` (no {CARD_KEY!r} entry); "
            "weights alone are converted by `involution convert`"
        )
    if not isinstance(found["state_dict"], Mapping):
        raise CheckpointError(f"{path}: its state_dict is {shown(found['state_dict'])}, wanted tensors by name")
    shards = Shards.of(found, path)
    return {**found, "state_dict": check_tensors(found["state_dict"], path, shards)}


def read_card(checkpoint: Mapping[str, Any], path: str | os.PathLike[str], task: str | None = None) -> ModelCard:
    """The card in a checkpoint that `read_checkpoint` returned.

    Args:
        checkpoint: the contents.
        path: the file, for messages.
        task: the task it must be for; None for any.

    Raises:
        CheckpointError: if it is incomplete, for another task, in a newer format, or has invalid values.
    """
    try:
        card = ModelCard.from_dict(checkpoint[CARD_KEY])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if task is not None and card.task != task:
        raise CheckpointError(f"{path}: made for the task {card.task!r}, wanted {task}")
    return card


def read_recipe(
    card: ModelCard, path: str | os.PathLike[str], cls: type[Config], check: Callable[[Config], None] | None = None
) -> Config:
    """The settings that a checkpoint was trained with.

    Args:
        card: its card.
        path: the file, for messages.
        cls: the task's settings.
        check: raises an error for settings that are out of range or do not go together.

    Raises:
        CheckpointError: for unknown settings or invalid values.
    """
    # the parser takes the square of a list's length
    complaint = plain(card.recipe, most=2000)
    if complaint:
        raise CheckpointError(f"{path}: its recipe {complaint}")
    wrong = _misplaced(card.recipe, cls().to_dict())
    if wrong is not None:
        raise CheckpointError(f"{path}: its recipe has {wrong}, which no {card.task} run has")
    try:
        config: Any = cls.load(base=card.recipe)
        if check is not None:
            check(config)
    # the parser can fail in any way on unexpected values
    except Exception as error:
        raise CheckpointError(f"{path}: its recipe can't be used: {_line(error)}") from error
    return config


def _misplaced(recipe: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """The first setting that there is not, or that is no group of settings where one is wanted or the other way."""
    for name, value in recipe.items():
        # a value that is not a group could be taken for the name of a settings file
        if name not in known or isinstance(known[name], dict) != isinstance(value, dict):
            return f"{shown(name)[1:-1]} = {shown(value)}"
        inner = _misplaced(value, known[name]) if isinstance(value, dict) and known[name] else None
        if inner is not None:
            return f"{name}.{inner}"
    return None


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's part of a checkpoint's weights, under the network's own names."""
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix(_PREFIX): value for name, value in weights if name.startswith(_PREFIX)}


def fill_network(
    path: str | os.PathLike[str],
    checkpoint: Mapping[str, Any],
    make: Callable[[], nn.Module],
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A network with a checkpoint's weights, in eval mode.

    The network is first built without memory, and never built larger than the file has weights for.

    Args:
        path: the file, for messages.
        checkpoint: its contents, as returned by `read_checkpoint`.
        make: builds the network.
        device: where the network goes.

    Raises:
        CheckpointError: if the network can't be made or the weights don't fit.
    """
    weights = network_weights(checkpoint)
    try:
        with _limited(weights), torch.device("meta"):
            trial: nn.Module | None = make()
    except _TooLarge as error:
        raise CheckpointError(f"{path}: {error}") from error
    # some networks read a number that they have just made, which has none here
    except Exception:
        trial = None
    if trial is not None:
        _check_fit(path, weights, trial)
    try:
        with _limited(weights):
            network = make()
    except Exception as error:
        raise CheckpointError(f"{path}: its network can't be made: {_line(error)}") from error
    _check_fit(path, weights, network)
    network.load_state_dict(weights)
    return network.to(device).eval()


def _check_fit(path: str | os.PathLike[str], weights: Mapping[str, Tensor], network: nn.Module) -> None:
    check_entries(weights, network.state_dict(), f"{path}: its weights don't fit the network that its card describes")


class _TooLarge(RuntimeError):
    """A network grows beyond its weights."""


@contextmanager
def _limited(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop building a network that has far more parameters than there are weights."""
    # layers are replaced while a network is made
    entries, numbers = 4 * len(weights) + 1000, 4 * sum(value.numel() for value in weights.values()) + 10_000_000
    thread, made = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != thread:
            return
        made[0] += 1
        made[1] += value.numel()
        if made[0] > entries or made[1] > numbers:
            raise _TooLarge(
                f"its card describes a far larger network than its weights ({len(weights)} entries, "
                f"{sum(one.numel() for one in weights.values())} numbers)"
            )

    hooks = [
        nn.modules.module.register_module_parameter_registration_hook(count),
        nn.modules.module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_name(name: str) -> None:
    """Raise `ConfigError` for a network that timm's registry, RedNet included, does not have."""
    import timm

    import involution.models  # noqa: F401  (registers RedNet)
    from involution.data.errors import nearest
    from involution.engine.settings import ConfigError

    if not timm.is_model(name):
        raise ConfigError(f"no model named {name!r}{nearest(name, timm.list_models())}")


def create_network(name: str, args: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    """Make a network by its name in timm's registry, RedNet included.

    Raises:
        ConfigError: for an unknown name, or arguments that the network does not take.
    """
    import timm

    from involution.engine.settings import ConfigError
    from involution.models.arguments import check_arguments, network_arguments

    check_name(name)
    try:
        if args:
            check_arguments(name, args, network_arguments(name))
        return timm.create_model(name, num_classes=num_classes, in_chans=channels, **args)
    except _TooLarge:
        raise
    # wrong arguments make networks fail in many ways
    except Exception as error:
        raise ConfigError(f"{name} can't be made with {shown(dict(args))}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:500]


def versions() -> dict[str, str]:
    """Versions of the libraries that affect a training run."""
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
