"""The weights that training starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from involution.data.addresses import on_this_machine
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.models.checkpoint import CheckpointReport
from involution.models.loading import load_checkpoint
from involution.models.weights import published

Config = TypeVar("Config")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load any file that `load_checkpoint` accepts into a network, except a head of another size.

    Args:
        model: one of timm's networks.
        path: the file, or the name of published weights.

    Raises:
        CheckpointError: if the file can't be read, or its weights don't belong to this network; the network
            is then unchanged.
    """
    with on_this_machine(path) as file:
        tell_loaded(path, load_checkpoint(model, file, ignore_head=None))


def fit_backbone(config: Config) -> Config:
    """The settings of a detector or segmenter with the backbone that its published weights are of.

    The published detectors have a 7×7 involution in the stem, the weights that are published by name a 3×3 one: with
    weights `rednet50`, `rednet50_stem7` becomes `rednet50`, and this is told.

    Args:
        config: the settings of a run of any task.

    Raises:
        ConfigError: for weights that are published for another network than the chosen one; they are not downloaded.
    """
    model: Any = config.model  # type: ignore[attr-defined]
    entry = published(model.weights) if model.weights and not Path(model.weights).is_file() else None
    setting = "backbone" if hasattr(model, "backbone") else "name"
    chosen: str = getattr(model, setting)
    other = published(chosen.removesuffix("_stem7"))
    if entry and other and other.model != entry.model:
        raise ConfigError(
            f"model.weights {model.weights} are of {entry.model}, and model.{setting} is {chosen}: choose "
            f"model.{setting} {entry.model} or model.weights {other.model}"
        )
    if entry is None or getattr(model, "backbone", None) != f"{entry.model}_stem7":
        return config
    tell(
        f"{model.weights} is published with a 3×3 involution in the stem: the backbone is {entry.model}, not "
        f"{model.backbone}, whose weights are only in the authors' files"
    )
    changed: Config = replace(config, model=replace(model, backbone=entry.model))  # type: ignore[type-var]
    return changed


def tell_loaded(path: str | Path, report: CheckpointReport) -> None:
    """Print what a user should know of weights that were read.

    These are the use of a moving average, an adapted first convolution, and a newly initialised head.
    """
    notes = list(report.notes)
    if report.untouched:
        notes.append(f"the head starts from scratch ({', '.join(report.untouched)}), the file's is for other classes")
    for note in notes:
        tell(f"{path}: {note}")
