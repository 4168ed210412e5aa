"""Converted weights as a checkpoint: the card of a file that says which network it is of, and no more."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from involution.data.labelled import told_apart
from involution.engine.card import FORMAT
from involution.models.errors import CheckpointError
from involution.models.readers import check_tensors
from involution.plain import shown

_IMAGENET = 1000


def as_checkpoint(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """What `read_checkpoint` gives of a classifier's file that `involution convert` wrote.

    A file that was made from a training has its card. Of others input size, mean, deviation, interpolation and crop are
    those that the network has in timm's registry, and the classes those in the file, else ImageNet's where there are
    1000, else numbers.

    Args:
        tensors: the file's.
        metadata: the file's; `model` names the network.
        path: the file, for messages.

    Raises:
        CheckpointError: for an unknown network, or one without a classifier.
    """
    import timm

    name = metadata["model"]
    config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise CheckpointError(f"{path}: weights of {shown(name)}, which is not in timm's registry")
    weights = check_tensors(tensors, path)
    if "card" in metadata:
        card = _read(metadata["card"], path)
        if not isinstance(card, dict):
            raise CheckpointError(f"{path}: its card is {shown(card)}, wanted fields by name")
        return {"state_dict": {f"model.{key}": value for key, value in weights.items()}, "involution": card}
    head, first = weights.get(f"{config.classifier}.weight"), weights.get(f"{config.first_conv}.weight")
    if head is None or head.ndim != 2:
        raise CheckpointError(
            f"{path}: a {name} without a classifier, to start a training from (--model.weights); it has no classes"
        )
    channels = 3 if first is None or first.ndim != 4 else first.shape[1]
    # grey images have the mean of the colours
    mean, std = (
        list(values) if channels == len(values) else [sum(values) / len(values)] * channels
        for values in (config.mean, config.std)
    )
    data = {
        # whoever measures it has to say on what
        "spec": "imagenet:" if len(head) == _IMAGENET else "imagefolder:",
        "image_size": config.input_size[-1],
        "channels": channels,
        "mean": mean,
        "std": std,
        "crop_pct": config.crop_pct,
        "interpolation": config.interpolation,
    }
    card = {
        "format": FORMAT,
        "task": "classify",
        "model": name,
        "model_args": {},
        "classes": _classes(metadata, len(head), path),
        "input_size": [channels, *config.input_size[1:]],
        **{key: data[key] for key in ("mean", "std", "crop_pct", "interpolation")},
        "recipe": {"name": name, "model": {"name": name}, "data": data},
        "versions": {key.removesuffix("_version"): value for key, value in metadata.items() if "_version" in key},
    }
    return {"state_dict": {f"model.{key}": value for key, value in weights.items()}, "involution": card}


def _classes(metadata: Mapping[str, str], count: int, path: str | os.PathLike[str]) -> list[str]:
    if "classes" in metadata:
        named = _read(metadata["classes"], path)
        if not isinstance(named, list) or len(named) != count or not all(isinstance(name, str) for name in named):
            raise CheckpointError(f"{path}: its class names are {shown(named)}, wanted {count} words")
        return named
    return imagenet_classes() if count == _IMAGENET else [str(label) for label in range(count)]


def _read(text: str, path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it says of itself is not JSON: {shown(text)}") from error


def imagenet_classes() -> list[str]:
    """The names of ImageNet's 1000 classes in their order, by timm; what two share has WordNet's number behind it.

    Example:
        >>> imagenet_classes()[:2], imagenet_classes()[134]
        (['tench', 'goldfish'], 'crane (n02012849)')
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    first = [info.index_to_description(label).partition(",")[0] for label in range(_IMAGENET)]
    return told_apart(first, [info.index_to_label_name(label) for label in range(_IMAGENET)])


def in_imagenet(names: Sequence[str]) -> list[str]:
    """ImageNet's classes of a data set by the names of `imagenet_classes`.

    WordNet's numbers, which are the names of ImageNet's folders, are looked up; ImageNet-V2's folders have the numbers
    of the classes; other lists of 1000 names are in the order of the folders.

    Example:
        >>> in_imagenet(["n01443537", "n03126707"])
        ['goldfish', 'crane (n03126707)']
    """
    from timm.data import ImageNetInfo

    info, ours = ImageNetInfo(), imagenet_classes()
    numbers = {info.index_to_label_name(label): name for label, name in enumerate(ours)}
    if all(name in numbers for name in names):
        return [numbers[name] for name in names]
    # sorted as words, 10 comes before 2
    if set(names) == set(map(str, range(_IMAGENET))):
        return [ours[int(name)] for name in names]
    return ours if len(names) == _IMAGENET else list(names)
