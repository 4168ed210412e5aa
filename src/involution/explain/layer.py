"""One layer applied to one image: its kernel map, and where its positions and windows are on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import ExplainError
from .kernels import find_layer, generated_kernels
from .subject import View


@dataclass(frozen=True)
class LayerMap:
    """The kernels that one layer generates for a view, and where they are on its picture.

    Args:
        name: Of the layer.
        kernels: `[G, K_h, K_w, H_o, W_o]`.
        stride: Input pixels per position of the map, (vertical, horizontal).
        feature_stride: Input pixels per position of the features that the kernels are applied to.
        reach: (top, left) distance in features from the start of a window to the start of its position.
        dilation: Features between two taps.
        step: Features between two positions.
    """

    name: str
    kernels: Tensor
    stride: tuple[float, float]
    feature_stride: tuple[float, float]
    reach: tuple[int, int]
    dilation: tuple[int, int]
    step: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the map."""
        return self.kernels.shape[3], self.kernels.shape[4]

    def position(self, row: int, column: int) -> tuple[int, int]:
        """The position (row, column) of the map whose patch holds a pixel (row, column) of the network's input."""
        place = [int(pixel / stride) for pixel, stride in zip((row, column), self.stride, strict=True)]
        return min(place[0], self.size[0] - 1), min(place[1], self.size[1] - 1)

    def middle(self, row: int, column: int) -> tuple[float, float]:
        """The middle (y, x) of the patch that a position stands for, in pixel centres of the input."""
        return (row + 0.5) * self.stride[0] - 0.5, (column + 0.5) * self.stride[1] - 0.5

    def window(self, row: int, column: int) -> tuple[float, float, float, float]:
        """(top, left, height, width) of the window that a position's kernel is applied to, in pixel centres."""
        corner, extent = [], []
        for axis, place in enumerate((row, column)):
            stride, taps = self.feature_stride[axis], self.kernels.shape[1 + axis]
            corner.append((place * self.step[axis] - self.reach[axis]) * stride - 0.5)
            extent.append(((taps - 1) * self.dilation[axis] + 1) * stride)
        return corner[0], corner[1], extent[0], extent[1]


def layer_map(view: View, layer: str) -> LayerMap:
    """Show a network its image and capture the kernels of one involution.

    Args:
        view: Network and image.
        layer: Name of an involution, or a unique part of it; see `find_layer`.

    Raises:
        ExplainError: If there is no such involution.

    Example:
        >>> from involution.models import rednet_nano
        >>> found = layer_map(View.of(rednet_nano().eval(), torch.rand(1, 3, 32, 32), name="nano"), "stage2.0")
        >>> found.name, list(found.kernels.shape), found.stride
        ('layer2.0.conv2', [2, 7, 7, 16, 16], (2.0, 2.0))
    """
    name = find_layer(view.network, layer)
    involution: Any = view.network.get_submodule(name)
    sizes: list[tuple[int, int]] = []
    hook = involution.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    try:
        kernels = generated_kernels(view.network, view.input, name).float().cpu()
    finally:
        hook.remove()
    generator = involution.generator
    reach = tuple(
        # only the leading side of "same" padding matters here
        int(leading)
        for leading, _ in generator.padding
    )
    return LayerMap(
        name=name,
        kernels=kernels,
        stride=_strides(view.size, (kernels.shape[3], kernels.shape[4])),
        feature_stride=_strides(view.size, sizes[0]),
        reach=(reach[0], reach[1]),
        dilation=generator.dilation,
        step=generator.stride,
    )


def _strides(input_size: tuple[int, int], map_size: tuple[int, int]) -> tuple[float, float]:
    strides = [_stride(side, places) for side, places in zip(input_size, map_size, strict=True)]
    return strides[0], strides[1]


def _stride(side: int, places: int) -> float:
    # every padded stride of two rounds up, so that 15 pixels become 8 positions of 2
    for power in range(11):
        if -(-side // 2**power) == places:
            return float(2**power)
    return side / places


def telling_positions(found: LayerMap, count: int = 4) -> list[tuple[int, int]]:
    """The positions (row, column) whose kernels differ most from each other.

    The strongest kernel comes first, then repeatedly the one farthest from all those chosen that is not next to one of
    them. The outermost positions, where half of the window lies outside the image, are left out. Small maps are exempt
    from both restrictions.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 16, 16), name="nano")
        >>> len(set(telling_positions(layer_map(view, "layer2.1"), 3)))
        3
    """
    if count < 1:
        raise ExplainError(f"wanted 1 position or more, got {count}")
    rows, columns = found.size
    edge = 1 if min(rows, columns) >= 5 else 0
    inner = found.kernels[..., edge : rows - edge, edge : columns - edge]
    width = inner.shape[-1]
    vectors = inner.flatten(3).flatten(0, 2).T
    grid = torch.cartesian_prod(*(torch.arange(side) for side in inner.shape[3:])).float()
    apart = min(inner.shape[3:]) // 4
    chosen = [int(vectors.norm(dim=1).argmax())]
    while len(chosen) < min(count, len(vectors)):
        distance = torch.cdist(vectors, vectors[chosen]).amin(1)
        near = torch.cdist(grid, grid[chosen], p=torch.inf).amin(1) <= apart
        # ranked below the others, so that even a uniform map yields different positions
        distance[near] -= distance.max() + 1
        distance[chosen] = -torch.inf
        chosen.append(int(distance.argmax()))
    return [(index // width + edge, index % width + edge) for index in chosen]
