"""Classifiers and segmenters, whose networks turn images into logits: their graphs, and files of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.engine.predictor import Predictor
from involution.export.graph import Graph, Input, Run
from involution.export.metadata import Metadata


class Normalise(nn.Module):
    """8-bit pixels [N, C, H, W] as a network's input, or one of them as it is.

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

    def back(self, values: Tensor) -> Tensor:
        """Return the 8-bit pixels that `forward` gave these values for."""
        return ((values.cpu() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)


class Dense(nn.Module):
    """A classifier or segmenter as a graph: logits of normalised images, or probabilities of 8-bit ones.

    Args:
        network: from images [N, C, H, W] to logits [N, classes, ...].
        normalise: in the graph; None if the images are normalised already.
    """

    def __init__(self, network: nn.Module, normalise: Normalise | None) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return logits or probabilities."""
        if self.normalise is None:
            return (self.network(images),)
        return (self.network(self.normalise(images)).softmax(1),)


class DenseFile(nn.Module):
    """An exported classifier or segmenter, called like its network.

    Args:
        run: runs the file.
        normalise: what the graph does with 8-bit images; None if it takes normalised ones.
    """

    def __init__(self, run: Run, normalise: Normalise | None) -> None:
        super().__init__()
        self.run, self.normalise = run, normalise

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of normalised images; those of a softmax have lost what is the same for all classes."""
        found: Tensor
        if self.normalise is None:
            (found,) = self.run([images.cpu()])
            return found
        (found,) = self.run([self.normalise.back(images)])
        return found.log()


def dense_graph(
    network: nn.Module, card: ModelCard, shape: tuple[int, int, int, int], open_sizes: Mapping[int, str], inside: bool
) -> Graph:
    """The graph of a classifier or segmenter.

    Args:
        network: from images to logits.
        card: its card.
        shape: of an example of its input.
        open_sizes: place of each dimension that is left open -> its name.
        inside: normalise and end in a softmax.
    """
    example = torch.randint(0, 256, shape, dtype=torch.uint8) if inside else torch.rand(shape)
    module = Dense(network, Normalise(card.mean, card.std) if inside else None)
    return Graph(module, (Input("images", example, open_sizes),), ("probabilities" if inside else "logits",))


def dense_file(run: Run, metadata: Metadata) -> nn.Module:
    """What runs the file of a classifier or segmenter, called like its network."""
    found = metadata.preprocessing
    return DenseFile(run, Normalise(found["mean"], found["std"]) if metadata.in_graph else None)


def prepare(predictor: Predictor[Any], image: Any) -> Tensor:
    """What a classifier or segmenter is called with."""
    return predictor.look(image).input.to(predictor.device)


def log_probabilities(predictor: Predictor[Any], logits: Tensor) -> tuple[Tensor, ...]:
    """What a softmax leaves of logits, of which a file may have nothing else."""
    return (logits.float().cpu().log_softmax(1),)
