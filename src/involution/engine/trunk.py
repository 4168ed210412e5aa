"""The network of timm's registry inside a classifier, detector or segmenter: its layers in order, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from involution.data.errors import nearest
from involution.engine.settings import ConfigError

# parts that are known by other words than a module's name
STEM, NORMS, BACKBONE = "stem", "norms", "backbone"


def find_trunk(network: nn.Module) -> nn.Module:
    """The backbone of a detector or segmenter; a classifier is its own."""
    from involution.models.pyramid import Backbone

    inside = next((module.body for module in network.modules() if isinstance(module, Backbone)), None)
    return inside if inside is not None else getattr(network, "trunk", network)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that the backbone's stages are made of, in order; each is called once in a forward pass."""
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.Sequential | nn.ModuleList):
                visit(child)
            elif isinstance(module, nn.Sequential) and len([*child.modules()]) > 1 and len([*child.parameters()]):
                found.append(child)
            else:
                visit(child)

    visit(find_trunk(network))
    return found


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of the head: of a detector or segmenter everything but the backbone, else the classifier."""
    # our own networks name them; timm's have a classifier
    if hasattr(network, "head_parameters"):
        return list(network.head_parameters())  # type: ignore[operator]
    return list(network.get_classifier().parameters())  # type: ignore[operator]


def layer_depths(network: nn.Module) -> dict[int, int]:
    """How many layers below the head each parameter and buffer of the backbone is, by its `id`.

    Layers are counted as timm does for its layer decay: the stem, each block, the classifier.

    Raises:
        ConfigError: for a network that does not say what its layers are.
    """
    from timm.models._manipulate import group_with_matcher

    trunk = find_trunk(network)
    # without the names that buffers of one kind share, timm's groups are those of the parameters
    entries = {name: id(value) for name, value in _entries(trunk)}
    whole = trunk if hasattr(trunk, "group_matcher") else _classifier_of(trunk)
    if whole is None:
        raise ConfigError(f"the layers of {type(trunk).__name__} have no order that timm knows")
    parts = {name.partition(".")[0] for name, _ in _entries(whole)}
    names = {_original(name, parts): name for name in entries}
    matcher: Any = whole.group_matcher
    layers = group_with_matcher(
        ((name, None) for name in names), matcher(coarse=False), return_values=False, reverse=True
    )
    # the backbone of a detector or segmenter has its head outside
    top = max(layers.values()) + (trunk is not network)
    return {entries[names[name]]: top - layer for name, layer in layers.items()}


def chosen_parts(network: nn.Module, words: str) -> tuple[list[nn.Parameter], list[_BatchNorm]]:
    """The parameters of some parts of the backbone, and the batch norms that belong to them.

    Args:
        network: the classifier, detector or segmenter.
        words: the parts, separated by commas: stem, a module's name such as layer1, backbone for everything but the
            head, norms for the statistics of all batch norms.

    Raises:
        ConfigError: for a part that there is not, or where nothing would be left to train.
    """
    trunk = find_trunk(network)
    head = {id(parameter) for parameter in head_parameters(network)}
    modules: dict[nn.Module, None] = {}
    norms: dict[nn.Module, None] = {}
    for word in (part.strip() for part in words.split(",")):
        if word == NORMS:
            norms.update(dict.fromkeys(trunk.modules()))
        elif word == BACKBONE:
            modules.update(dict.fromkeys(one for one in trunk.modules() if not _own(one) & head))
        elif word == STEM:
            depths = layer_depths(network)
            first = max(depths.values())
            modules.update(dict.fromkeys(one for one in trunk.modules() if any(depths[i] == first for i in _own(one))))
        else:
            modules.update(dict.fromkeys(_part(trunk, word).modules()))
    parameters = [parameter for one in modules for parameter in one.parameters(recurse=False)]
    frozen = {id(parameter) for parameter in parameters}
    if all(id(parameter) in frozen for parameter in network.parameters()):
        raise ConfigError(f"model.freeze {words}: nothing is left to train")
    return parameters, [one for one in {**modules, **norms} if isinstance(one, _BatchNorm)]


def _part(trunk: nn.Module, name: str) -> nn.Module:
    try:
        # the empty name is the whole network's
        if name:
            return trunk.get_submodule(name)
    except AttributeError:
        pass
    known = [STEM, *(part for part, child in trunk.named_children() if [*child.parameters()]), BACKBONE, NORMS]
    raise ConfigError(f"model.freeze: no part {name!r} in the backbone ({', '.join(known)}){nearest(name, known)}")


def _own(module: nn.Module) -> set[int]:
    return {id(value) for _, value in _entries(module, recurse=False)}


def _entries(module: nn.Module, recurse: bool = True) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)


def _classifier_of(features: nn.Module) -> nn.Module | None:
    """The network, without its memory, whose features timm extracts."""
    import timm

    name = (getattr(features, "pretrained_cfg", None) or {}).get("architecture")
    if name is None:
        return None
    with torch.device("meta"):
        whole: nn.Module = timm.create_model(name)
    return whole if hasattr(whole, "group_matcher") else None


def _original(name: str, parts: set[str]) -> str:
    """The name of an entry in the whole network: features are wrapped (model.x), or their stages taken apart (x_0)."""
    name = name if "model" in parts else name.removeprefix("model.")
    first, dot, rest = name.partition(".")
    return name if first in parts or "_" not in first else f"{first.replace('_', '.', 1)}{dot}{rest}"
