"""The weights that training starts from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from involution.data.addresses import is_address, on_this_machine
from involution.data.text import nfc
from involution.engine.classes import are_same, some
from involution.engine.converted import imagenet_classes, in_imagenet
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.models.checkpoint import CheckpointReport
from involution.models.errors import CheckpointError
from involution.models.loading import load_checkpoint
from involution.models.matching import head_names
from involution.models.weights import locate, published

Config = TypeVar("Config")


def load_weights(model: nn.Module, path: str | Path) -> CheckpointReport:
    """Load any file that `load_checkpoint` accepts into a network, except a head of another size.

    Args:
        model: one of timm's networks.
        path: the file, or the name of published weights.

    Returns:
        what was read, for `order_head`.

    Raises:
        CheckpointError: if the file can't be read, or its weights don't belong to this network; the network
            is then unchanged.
    """
    with on_this_machine(path) as file:
        report = load_checkpoint(model, file, ignore_head=None)
    tell_loaded(path, report)
    return report


def order_head(model: nn.Module, path: str | Path, report: CheckpointReport, classes: Sequence[str]) -> None:
    """Bring the head that `load_weights` read into the order of the classes to train on, by their names.

    Classes that the file has not start from scratch; where it has none of them, but as many, its head stays as it is.
    All this is told.

    Args:
        model: the network.
        path: where its weights come from, for messages.
        report: what was read.
        classes: names of the classes to train on.
    """
    names, theirs = list(map(nfc, report.classes or [])), list(map(nfc, classes))
    if report.untouched or len(names) != len(theirs):
        return
    if names == imagenet_classes():
        # folders are named by WordNet's numbers
        theirs = in_imagenet(theirs)
    if are_same(theirs, names):
        return
    if not set(names) & set(theirs) or len(set(names)) < len(names):
        tell(
            f"{path}: its head is taken as it is, a class for a class: {some(names)} become {some(classes)}; "
            "as many, but not the same by name"
        )
        return
    places = [names.index(name) if name in names else -1 for name in theirs]
    new = [place for place, old in enumerate(places) if old < 0]
    for name in head_names(model):
        head = model.get_submodule(name)
        fresh: Any = copy.deepcopy(head)
        fresh.reset_parameters()
        for values, others in zip(head.parameters(), fresh.parameters(), strict=True):
            if len(values) == len(places):
                values.data = values.data[places]
                values.data[new] = others.data[new]
    if new:
        kept = [name for name, old in zip(classes, places, strict=True) if old >= 0]
        tell(
            f"{path}: its head has {some(kept)} of the {len(classes)} classes by name, which are kept; "
            f"from scratch: {some([classes[place] for place in new])}"
        )
        return
    tell(f"{path}: its head has the same classes in another order, and was put into the order of the data by name")


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


def check_weights(config: Any) -> None:
    """Refuse weights to start from that are not there, before any data is read.

    Raises:
        CheckpointError: naming them.
        WeightsError: for what is nearly the name of published ones.
    """
    path = config.model.weights
    if not path or is_address(path) or Path(path).exists() or published(path):
        return
    raise CheckpointError(f"no such checkpoint: {locate(path)}")


def tell_loaded(path: str | Path, report: CheckpointReport) -> None:
    """Print what a user should know of weights that were read.

    These are the use of a moving average, an adapted first convolution, and a newly initialised head.
    """
    notes = list(report.notes)
    if report.untouched:
        notes.append(f"the head starts from scratch ({', '.join(report.untouched)}), the file's is for other classes")
    for note in notes:
        tell(f"{path}: {note}")
