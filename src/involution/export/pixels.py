"""Classifiers and segmenters, whose networks turn images into logits: their graphs, and files of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.engine.predictor import Predictor
from involution.export.errors import ExportError
from involution.export.graph import Graph, Input, Run
from involution.export.metadata import Metadata
from involution.export.resample import ShorterSide


class Normalise(nn.Module):
    """Pixels [N, C, H, W] from 0 to 255 as a network's input.

    Args:
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 values as torchvision normalises them."""
        return (pixels.float() / 255 - self.mean) / self.std


class Dense(nn.Module):
    """A classifier or segmenter as a graph: logits of prepared images, or probabilities of 8-bit pictures.

    Args:
        network: from images [N, C, H, W] to logits [N, classes] or [N, classes, H, W].
        prepare: from pictures to the network's images, in the graph; None if the images are prepared already.
    """

    def __init__(self, network: nn.Module, prepare: nn.Module | None) -> None:
        super().__init__()
        self.network, self.prepare = network, prepare

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return logits or probabilities; those of a segmenter for each pixel of the picture."""
        if self.prepare is None:
            return (self.network(images),)
        logits = self.network(self.prepare(images))
        return (at_size(logits, images.shape[2:]).softmax(1),)


class DenseFile(nn.Module):
    """An exported classifier or segmenter, called like its network.

    Attributes:
        takes_pixels: whether it is called with 8-bit pictures, which its graph prepares.

    Args:
        run: runs the file.
        takes_pixels: the attribute.
        classes: how many there are.
    """

    def __init__(self, run: Run, takes_pixels: bool, classes: int) -> None:
        super().__init__()
        self.run, self.takes_pixels, self.classes = run, takes_pixels, classes

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; those of a softmax have lost what is the same for all classes."""
        (found,) = self.run([images.cpu()])
        if found.ndim < 2 or found.shape[1] != self.classes:
            raise ExportError(f"the file names {self.classes} classes and computes {' x '.join(map(str, found.shape))}")
        return found.log() if self.takes_pixels else found


def at_size(logits: Tensor, size: Sequence[int]) -> Tensor:
    """A segmenter's logits for each pixel of a picture; a classifier's as they are."""
    if logits.ndim < 4:
        return logits
    return nn.functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def dense_graph(
    network: nn.Module, card: ModelCard, shape: tuple[int, int, int, int], open_sizes: Mapping[int, str], inside: bool
) -> Graph:
    """The graph of a classifier or segmenter.

    Args:
        network: from images to logits.
        card: its card.
        shape: of an example of its input.
        open_sizes: place of each dimension that is left open -> its name.
        inside: prepare 8-bit pictures and end in a softmax.
    """
    if not inside:
        images = Input("images", torch.rand(shape), open_sizes)
        return Graph(Dense(network, None), (images,), ("logits",))
    side = card.input_size[-1]
    steps: list[nn.Module] = []
    if card.task == "classify":
        steps.append(ShorterSide(round(side / card.crop_pct), side, card.interpolation))
    elif side:
        steps.append(ShorterSide(side))
    module = Dense(network, nn.Sequential(*steps, Normalise(card.mean, card.std)))
    images = Input("images", torch.randint(0, 256, shape, dtype=torch.uint8), open_sizes)
    return Graph(module, (images,), ("probabilities",))


def dense_file(run: Run, metadata: Metadata) -> nn.Module:
    """What runs the file of a classifier or segmenter, called like its network."""
    return DenseFile(run, metadata.in_graph, len(metadata.classes))


def most_apart(resized: bool) -> float:
    """By how much a file's probabilities may differ from PyTorch's; its own resize moves some pixels by one of 255."""
    return 5e-2 if resized else 1e-3


def prepare(predictor: Predictor[Any], image: Any) -> Tensor:
    """What a classifier or segmenter is called with."""
    return predictor.look(image).input.to(predictor.device)


def log_probabilities(predictor: Predictor[Any], image: Any, logits: Tensor) -> tuple[Tensor, ...]:
    """What a softmax leaves of logits, of which a file may have nothing else; for each pixel of the image."""
    return (at_size(logits.float().cpu(), (image.height, image.width)).log_softmax(1),)
