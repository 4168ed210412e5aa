"""Which entry of a file belongs to which of a model's, for every network of timm, whole or cut to its features."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from involution.models.errors import CheckpointError, shorten
from involution.models.keys import Source, is_foreign, to_timm_layout


@dataclass
class Matched:
    """A file's entries by a model's names.

    Attributes:
        tensors: Entries that the model has, by its names.
        head: Entries of the file's classifier, by its names.
        strange: Entries of the same network that the model lacks.
        left_out: Entries that are no part of the model: a detector's neck and heads, stages that it does not have.
        beside: Those of them that are beside the network in the file.
        source: Layout of the file: authors, paddle or timm.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    source: Source = "timm"


def match(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Matched:
    """Assign a file's entries to a model's, under any prefix and in any layout that `to_timm_layout` knows.

    Args:
        model: A network of timm, as a rule; also one that `features_only=True` cut to its features.
        tensors: The file's entries.

    Raises:
        CheckpointError: No entry of the network in the file, or several networks.
    """
    found = Matched()
    if is_foreign(tensors):
        state = to_timm_layout(tensors)
        tensors, found.source = state.tensors, state.source
        found.left_out, found.beside = list(state.left_out), list(state.left_out)
    names = {whole: name for name in model.state_dict() for whole in _whole_names(model, name)}
    heads = tuple(f"{name}." for name in head_names(model))
    prefix = _prefix(tensors, names)
    for key, tensor in tensors.items():
        whole = key.removeprefix(prefix)
        if not key.startswith(prefix):
            found.left_out.append(key)
            found.beside.append(key)
        elif whole.startswith(heads):
            found.head[whole] = tensor
        elif whole in names:
            found.tensors[names[whole]] = tensor
        elif not heads and _outside(model, whole):
            found.left_out.append(key)
        else:
            found.strange.append(whole)
    return found


def head_names(model: nn.Module) -> list[str]:
    """Names of a network's classifiers as timm knows them; none for a network that was cut to its features."""
    config: Any = getattr(model, "pretrained_cfg", None)
    if config is not None:
        named = config.get("classifier") or ()
        return [named] if isinstance(named, str) else list(named)
    if not hasattr(model, "get_classifier"):
        return []
    found: Any = model.get_classifier()  # type: ignore[operator]
    modules = found if isinstance(found, tuple | list) else [found]
    return [name for name, module in model.named_modules() if any(module is one for one in modules)]


def first_convolutions(model: nn.Module) -> list[str]:
    """Names, in the model, of the weights that see the image's channels, where timm tells them."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("first_conv") or ()
    wanted = {f"{name}.weight" for name in ([named] if isinstance(named, str) else named)}
    return [name for name in model.state_dict() if not wanted.isdisjoint(_whole_names(model, name))]


def _whole_names(model: nn.Module, name: str) -> list[str]:
    """Names that an entry may have in the whole network, of which timm makes feature networks."""
    from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet

    if isinstance(model, FeatureGetterNet):
        return [name.removeprefix("model.")]
    if not isinstance(model, FeatureDictNet | FeatureHookNet):
        return [name]
    # a list of modules joins the names of a stage and its place by an underscore: stages_0 is stages.0
    first, dot, rest = name.partition(".")
    joints = [place for place, letter in enumerate(first) if letter == "_"]
    return [name, *(f"{first[:place]}.{first[place + 1 :]}{dot}{rest}" for place in joints)]


def _prefix(keys: Iterable[str], names: Mapping[str, str]) -> str:
    """What stands before the model's names in a file."""
    keys = list(keys)
    counts: dict[str, int] = {}
    for key in keys:
        place = 0
        while place >= 0:
            if key[place:] in names:
                counts[key[:place]] = counts.get(key[:place], 0) + 1
            dot = key.find(".", place)
            place = dot + 1 if dot >= 0 else -1
    if not counts:
        raise CheckpointError(
            f"no part of this network in the file: wanted entries like {next(iter(names), 'none')}, got "
            f"{shorten(keys, 3) or 'none'}"
        )
    most = max(counts.values())
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    # names such as bn1.weight are found anywhere; what has most of the network is one
    if len(best) > 1 and 2 * most > len(set(names.values())):
        raise CheckpointError(
            f"several networks in this file, under {', '.join(map(repr, best))}: save only one of them"
        )
    return best[0]


def _outside(model: nn.Module, whole: str) -> bool:
    """Whether an entry of the whole network belongs to a part that a feature network does not have."""
    from timm.models._features import FeatureGetterNet

    # what was cut off may be there as an identity, without any weights
    children = [name for name, child in _inner(model).named_children() if child.state_dict()]
    names = [whole_name for name in children for whole_name in _whole_names(model, name)]
    mine = [name for name in names if whole.startswith(f"{name}.")]
    if not mine:
        return True
    if not isinstance(model, FeatureGetterNet):
        return False
    # the blocks behind the last feature are cut off
    parent = _inner(model).get_submodule(mine[0])
    place = whole.removeprefix(f"{mine[0]}.").partition(".")[0]
    return isinstance(parent, nn.Sequential | nn.ModuleList) and place.isdigit() and int(place) >= len(parent)


def _inner(model: nn.Module) -> nn.Module:
    from timm.models._features import FeatureGetterNet

    return model.get_submodule("model") if isinstance(model, FeatureGetterNet) else model
