"""Resizing pictures in a graph, as products with matrices of weights, one for each axis.

Every runtime has these products, so all of them compute the same, where their own resizes differ in what they can and
in how they round. The weights depend on the picture's size, so the graph computes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ShorterSide(nn.Module):
    """8-bit pictures resized with antialias as torchvision resizes them, perhaps with the centre square cut out.

    The results are rounded after each axis, as PyTorch does for 8-bit images. They differ from its own by one of 255
    at most, for less than one pixel in a hundred.

    Args:
        short: the shorter side gets this many pixels.
        crop: side of the centre square, at most `short`; None leaves the picture whole.
        interpolation: bilinear or bicubic.
    """

    def __init__(self, short: int, crop: int | None = None, interpolation: str = "bilinear") -> None:
        super().__init__()
        self.short, self.crop, self.is_cubic = short, crop, interpolation == "bicubic"

    def forward(self, pictures: Tensor) -> Tensor:
        """Return float32 values from 0 to 255 [N, C, h, w] of uint8 pictures [N, C, H, W]."""
        height, width = sizes = whole_sizes(pictures)
        least = torch.minimum(height, width)
        found = pictures.float()
        for axis in (1, 0):
            out = self.short * sizes[axis] // least
            count = pictures.shape[2 + axis]
            weights = _antialiased(sizes[axis], out, self._places(out, count), count, self.is_cubic)
            found = multiply(found, weights, axis).round().clamp(0, 255)
        return found

    def _places(self, out: Tensor, count: Any) -> Tensor:
        if self.crop is not None:
            return torch.arange(self.crop) + ((out - self.crop) / 2).round().long()
        return torch.arange(as_size(out, self.short))


class FitInside(nn.Module):
    """A normalised picture resized and filled up as torchvision's detectors do it.

    Args:
        short: the shorter side gets this many pixels,
        longest: unless the longer one would get more than this.
        multiple_of: zeros are added below and on the right up to a multiple of this.
        room: height and width to fill up to instead; a picture that would not fit gets smaller.
    """

    def __init__(self, short: int, longest: int, multiple_of: int, room: tuple[int, int] | None) -> None:
        super().__init__()
        self.short, self.longest, self.multiple_of, self.room = short, longest, multiple_of, room

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the filled picture [1, C, h, w], and height and width [2] in it, of a picture [1, C, H, W]."""
        sizes = torch.stack(whole_sizes(picture))
        # in Python's precision, which decides between two sizes where the product is nearly whole
        exact = sizes.double()
        scale = torch.minimum(self.short / exact.min(), self.longest / exact.max())
        if self.room is not None:
            scale = torch.minimum(scale, (torch.tensor(self.room) / exact).min())
        resized = (exact * scale).floor().long().clamp(min=1)
        for axis in (1, 0):
            places = torch.arange(self._filled(resized[axis], axis))
            weights = _linear(sizes[axis], resized[axis], places, picture.shape[2 + axis])
            picture = multiply(picture, weights, axis)
        return picture, resized

    def _filled(self, size: Tensor, axis: int) -> Any:
        if self.room is not None:
            return self.room[axis]
        # the coarsest level of a trace has more than one row
        count = ((size + self.multiple_of - 1) // self.multiple_of).clamp(min=2)
        return as_size(count, 2) * self.multiple_of


class AdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` for images whose sizes are open, which ONNX's operators can't do.

    Args:
        size: height and width of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of overlapping parts of [N, C, H, W]."""
        for axis, (count, places) in enumerate(zip(whole_sizes(x), self.size, strict=True)):
            first = torch.arange(places) * count // places
            end = (torch.arange(1, places + 1) * count + places - 1) // places
            pixels = torch.arange(x.shape[2 + axis])
            inside = (pixels >= first[:, None]) & (pixels < end[:, None])
            x = multiply(x, inside / (end - first)[:, None], axis)
        return x


def open_pools(network: nn.Module) -> None:
    """Replace the pools of a network whose images are of any size, in place."""
    for parent in list(network.modules()):
        for name, part in parent.named_children():
            size: Any = part.output_size if isinstance(part, nn.AdaptiveAvgPool2d) else 1
            height, width = (size, size) if isinstance(size, int) else size
            if (height, width) != (1, 1) and None not in (height, width):
                setattr(parent, name, AdaptivePool((height, width)))


def whole_sizes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of [N, C, H, W] as tensors of int64."""
    height, width = (torch.scalar_tensor(size, dtype=torch.int64) for size in pictures.shape[2:])
    return height, width


def as_size(value: Tensor, least: int) -> Any:
    """A number that the graph computes as the size of a tensor, at least `least`."""
    size = value.item()
    torch._check(size >= least)
    return size


def multiply(values: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Resize [N, C, H, W] along y (0) or x (1) with weights [places, pixels]."""
    return values @ weights.T if axis else weights @ values


def _antialiased(size: Tensor, out: Tensor, places: Tensor, count: Any, is_cubic: bool) -> Tensor:
    # the distance of a pixel to the centre that it is weighted for, in units of the larger of the two pixels; whole
    # numbers up to the division, so nothing is lost
    apart = ((2 * torch.arange(count) + 1) * out - (2 * places[:, None] + 1) * size).abs()
    x = apart / (2 * torch.maximum(size, out))
    if is_cubic:
        # Keys' kernel with a = -0.5, as Pillow's
        far = (((x - 5) * x + 8) * x - 4) * -0.5
        weights = torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, torch.where(x < 2, far, torch.zeros_like(x)))
    else:
        weights = (1 - x).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _linear(size: Tensor, out: Tensor, places: Tensor, count: Any) -> Tensor:
    # between the two nearest pixels; nothing for places outside of the result
    centres = ((2 * places + 1) * size / (2 * out) - 0.5).clamp(min=0).minimum((size - 1).float())
    weights = (1 - (torch.arange(count) - centres[:, None]).abs()).clamp(min=0)
    return weights * (places < out)[:, None]
