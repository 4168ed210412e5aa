"""Between 8-bit pixels and a network's input, in a graph and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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

    def __init__(self, run: object, normalise: Normalise | None) -> None:
        super().__init__()
        self.run, self.normalise = run, normalise

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of normalised images; those of a softmax have lost what is the same for all classes."""
        found: Tensor
        if self.normalise is None:
            (found,) = self.run([images.cpu()])  # type: ignore[operator]
            return found
        (found,) = self.run([self.normalise.back(images)])  # type: ignore[operator]
        return found.log()


def example(shape: Sequence[int], in_graph: bool) -> Tensor:
    """An input for a trace."""
    if in_graph:
        return torch.randint(0, 256, tuple(shape), dtype=torch.uint8)
    return torch.rand(tuple(shape))
