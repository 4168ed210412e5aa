"""What the checkpoints say about an image: predictions, and the kernels of each stage at one pixel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from involution.app.checkpoints import Checkpoint
from involution.app.errors import AppError
from involution.app.reader import Upload
from involution.data.noticed import HARDLY_SEEN
from involution.engine.domain import mismatch
from involution.explain import Subject, View, involution_layers, layer_map
from involution.explain.touch import touch_html
from involution.predict import Predictor, Result, find_device, load_predictor

# groups of kernels that are shown, and as many of a convolution's filters
MOST_GROUPS = 4
_IN_MEMORY = 6
_STAGE = re.compile(r"(?:^|\.)(conv1|layer(\d+))\.")


@dataclass(frozen=True)
class Prediction:
    """What one network says about an image.

    Args:
        title: Name of the network.
        parameters: How many it has.
        result: With the time it took.
        note: That the image is of another kind than those of the training, or that the network sees little of it.
    """

    title: str
    parameters: int
    result: Result
    note: str = ""


@dataclass(frozen=True)
class StageKernels:
    """The kernels of one layer at one pixel.

    Args:
        title: Of the stage.
        layer: Name of the involution, the last one of its stage.
        position: (row, column) in the layer's kernel map.
        size: (rows, columns) of that map.
        groups: Number of groups of kernels.
        kernels: Those of the first groups, `[n, K_h, K_w]`.
        fixed: As many filters of the twin's convolution in this place, `[n, K_h, K_w]`, or None.
    """

    title: str
    layer: str
    position: tuple[int, int]
    size: tuple[int, int]
    groups: int
    kernels: Tensor
    fixed: Tensor | None


def predict(checkpoint: Checkpoint, upload: Upload) -> Prediction:
    """Use a checkpoint on an image.

    Args:
        checkpoint: Is read when it is used first, and kept in memory with a few others.
        upload: The image.

    Raises:
        CheckpointError: If it can't be read (any more).
        ImageError: If the network can't take an image of this size.
        AppError: If it can't be read as the network wants it, the file was replaced by that of another network, or a
            `time_limit` around this is over.
    """
    image = upload.seen(checkpoint.reading)
    before = _predictor.cache_info().misses
    network = _predictor(checkpoint, checkpoint.stamp_now())
    if _predictor.cache_info().misses > before:
        # the first run sets up what later ones reuse, so its time means nothing
        network.predict(image)
    parameters = sum(part.numel() for part in network.model.parameters())
    notes = [mismatch(network.card, image)]
    if (share := network.share_seen(image)) < HARDLY_SEEN:
        notes.append(f"The network sees the middle alone, {share:.0%} of the image.")
    return Prediction(checkpoint.title, parameters, network.predict(image), " ".join(filter(None, notes)))


def stage_kernels(
    first: Checkpoint, second: Checkpoint | None, upload: Upload, pixel: tuple[int, int]
) -> tuple[str, list[StageKernels]]:
    """The kernels that a network generates for one pixel, in the last involution of each stage.

    Args:
        first: Network to look into; if it has no involutions, `second` is.
        second: Its twin or another network, whose convolutions are put beside.
        upload: The image.
        pixel: (row, column) in the image as `first` sees it.

    Returns:
        Name of the network, and the kernels from the input to the output.

    Raises:
        AppError: If no network has involutions, the image can't be read as it wants it, or a `time_limit` around this
            is over.
        ExplainError: If the pixel is outside what the network sees, or its weights are untrained.
    """
    title, view, twin = _shown(first, second, upload)
    inside = view.input_pixel(pixel[1], pixel[0])
    layers = last_of_each_stage(involution_layers(view.network))
    return title, [_at(view, name, layer, inside, twin.network if twin else None) for name, layer in layers]


def to_touch(first: Checkpoint, second: Checkpoint | None, upload: Upload) -> str:
    """The element with which each position can be tried, as HTML; nothing where no layer is coarse enough.

    Args:
        first: Network to look into; if it has no involutions, `second` is.
        second: Its twin or another network.
        upload: The image.

    Raises:
        AppError: As `stage_kernels` does.
        ExplainError: As `stage_kernels` does.
    """
    _, view, twin = _shown(first, second, upload)
    layers = [layer for _, layer in last_of_each_stage(involution_layers(view.network))]
    beside = twin.view(upload.seen(first.reading)) if twin else None
    return touch_html([("the image", view, beside)], layers)


def _shown(first: Checkpoint, second: Checkpoint | None, upload: Upload) -> tuple[str, View, Subject | None]:
    """The network with involutions, its view, and the other network."""
    chosen = [checkpoint for checkpoint in (first, second) if checkpoint]
    subjects = [_subject(checkpoint, checkpoint.stamp_now()) for checkpoint in chosen]
    with_involutions = [place for place, subject in enumerate(subjects) if involution_layers(subject.network)]
    if not with_involutions:
        raise AppError(f"{' and '.join(item.title for item in chosen)}: no involutions, so no kernels are generated")
    place = with_involutions[0]
    twin = next((subject for other, subject in enumerate(subjects) if other != place), None)
    image = upload.seen(chosen[place].reading)
    if image.size != upload.seen(first.reading).size:
        raise AppError(f"{chosen[place].title} was trained on images turned otherwise: choose it as Checkpoint")
    return chosen[place].title, subjects[place].view(image), twin


def last_of_each_stage(layers: list[str]) -> list[tuple[str, str]]:
    """(title of the stage, its last involution); each one outside the stages, as in a neck, stands for itself.

    Example:
        >>> last_of_each_stage(["conv1.3", "layer1.0.conv2", "layer1.1.conv2", "fpn.layer_blocks.0.0"])
        [('Stem', 'conv1.3'), ('Stage 1', 'layer1.1.conv2'), ('fpn.layer_blocks.0.0', 'fpn.layer_blocks.0.0')]
    """
    found: dict[str, str] = {}
    for layer in layers:
        match = _STAGE.search(layer)
        title = layer if match is None else f"Stage {match[2]}" if match[2] else "Stem"
        found[title] = layer
    return list(found.items())


def _at(view: View, title: str, layer: str, inside: tuple[int, int], twin: nn.Module | None) -> StageKernels:
    found = layer_map(view, layer)
    row, column = found.position(*inside)
    groups = found.kernels.shape[0]
    kernels = found.kernels[:MOST_GROUPS, :, :, row, column]
    return StageKernels(
        title=title,
        layer=layer,
        position=(row, column),
        size=found.size,
        groups=groups,
        kernels=kernels,
        fixed=_fixed(twin, layer, len(kernels)) if twin is not None else None,
    )


def _fixed(twin: nn.Module, layer: str, count: int) -> Tensor | None:
    """A convolution's filters from a channel to itself, as an involution's kernels are."""
    try:
        convolution = twin.get_submodule(layer)
    except AttributeError:
        return None
    if not isinstance(convolution, nn.Conv2d):
        return None
    channels = torch.arange(min(count, *convolution.weight.shape[:2]))
    return convolution.weight.detach().float().cpu()[channels, channels]


@lru_cache(_IN_MEMORY)
def _predictor(checkpoint: Checkpoint, stamp: tuple[int, int]) -> Predictor[Any]:
    _check_same(checkpoint, stamp)
    return load_predictor(checkpoint.path)


@lru_cache(_IN_MEMORY)
def _subject(checkpoint: Checkpoint, stamp: tuple[int, int]) -> Subject:
    _check_same(checkpoint, stamp)
    return Subject.from_checkpoint(checkpoint.path, find_device("auto"))


def _check_same(checkpoint: Checkpoint, stamp: tuple[int, int]) -> None:
    """Refuse what came into a file's place since the page began, unless further training alone made it."""
    if stamp != checkpoint.stamp and Checkpoint.read(checkpoint.path) != checkpoint:
        raise AppError(
            f"{checkpoint.title}: its file was replaced by that of another network, or with other classes: "
            "start the page again"
        )
