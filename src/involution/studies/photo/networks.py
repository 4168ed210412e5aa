"""The networks that are compared: all take a photograph and return it, and none sees more than it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from involution import involution2d

PER_PIXEL = "kernels for each pixel"


class PerPixel(nn.Module):
    """Generates a kernel for each pixel and applies it to the picture: its colours are averages of those nearby.

    Args:
        width: Channels of the two 3×3 convolutions that see what is there.
        kernel_size: Of the kernels, K.
    """

    def __init__(self, width: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.features = nn.Sequential(*_features(width, 2))
        self.span = nn.Conv2d(width, kernel_size**2, 1)

    def kernels(self, image: Tensor) -> Tensor:
        """Return the kernels `[N, 1, K, K, H, W]` of images `[N, 3, H, W]`; the taps of each sum to one."""
        taps = self.span(self.features(image)).softmax(1)
        return taps.unflatten(1, (1, self.kernel_size, self.kernel_size))

    def forward(self, image: Tensor) -> Tensor:
        """Return images `[N, 3, H, W]` without noise."""
        return involution2d(image, self.kernels(image), padding=self.kernel_size // 2)


class Residual(nn.Module):
    """Adds what a stack of layers finds to the picture.

    Args:
        layers: From `[N, 3, H, W]` to the same shape.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Return images `[N, 3, H, W]` without noise."""
        return image + self.layers(image)


class DepthwiseBlock(nn.Module):
    """A ConvNeXt's block without its norm: depthwise 7×7, twice the channels, ReLU, and back, added to what came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.Conv2d(width, 2 * width, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, `[N, C, H, W]`."""
        return x + self.layers(x)


def _features(width: int, depth: int) -> list[nn.Module]:
    inputs = [3, *[width] * (depth - 1)]
    return [layer for before in inputs for layer in (nn.Conv2d(before, width, 3, padding=1), nn.ReLU())]


def _cnn(width: int, depth: int, last: int = 3) -> Residual:
    return Residual(*_features(width, depth - 1), nn.Conv2d(width, 3, last, padding=last // 2))


def _depthwise() -> Residual:
    width = 14
    ends = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
    return Residual(ends[0], DepthwiseBlock(width), DepthwiseBlock(width), ends[1])


@dataclass(frozen=True)
class Entry:
    """A network of the comparison.

    Attributes:
        build: Makes it, with random weights.
        learning_rate: Of Adam at its highest: of 0.003 and 0.01 the better for both photographs together in 8 s.
        layers: What it is made of, for tables.
    """

    build: Callable[[], nn.Module]
    learning_rate: float
    layers: str


NETWORKS = {
    "one 7×7 convolution": Entry(lambda: nn.Conv2d(3, 3, 7, padding=3), 0.01, "7×7"),
    "residual CNN, as wide": Entry(lambda: _cnn(16, 3, last=7), 0.003, "3×3, 3×3, 7×7; 16 channels"),
    "residual CNN, equal parameters": Entry(lambda: _cnn(13, 4), 0.01, "4 of 3×3; 13 channels"),
    "depthwise 7×7 CNN": Entry(_depthwise, 0.01, "3×3, 2 blocks of depthwise 7×7, 3×3; 14 channels"),
    "residual CNN, larger": Entry(lambda: _cnn(24, 5), 0.003, "5 of 3×3; 24 channels"),
    "residual CNN, large": Entry(lambda: _cnn(32, 7), 0.003, "7 of 3×3; 32 channels"),
    PER_PIXEL: Entry(PerPixel, 0.01, "3×3, 3×3, 1×1; 16 channels; 7×7 kernels"),
}
