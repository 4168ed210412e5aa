"""mmdetection's rules where torchvision's differ, for the detectors published in that library.

The weights mean the same in both; these parts decide where an anchor lies, where the features of a region are sampled,
and what P7 is computed from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

__all__ = ["ExactAnchors", "HalfPixelRoIAlign", "LinearP6P7"]


class ExactAnchors(AnchorGenerator):
    """Anchors with unrounded sides, on grids with each level's nominal stride.

    torchvision rounds the sides to whole pixels and divides the image size by the level's size, which is not the stride
    if there is a remainder (for P6 and P7 of an image of 800 pixels: 61 and 114 instead of 64 and 128).

    Args:
        sizes: Sides of each level's square anchors in pixels.
        aspect_ratios: Height to width, for each level.
        strides: Distance in pixels of each level's positions.

    Example:
        >>> anchors = ExactAnchors(((32.0,),), ((0.5,),), (8,))
        >>> anchors.cell_anchors[0]
        tensor([[-22.6274, -11.3137,  22.6274,  11.3137]])
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]], strides: Sequence[int]
    ) -> None:
        super().__init__(sizes, aspect_ratios)
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> Tensor:
        """Return the anchors [ratios · scales, 4] (x1 y1 x2 y2) around the origin, grouped by ratio."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sides / roots[:, None]).flatten(), (sides * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], 1) / 2

    def grid_anchors(self, grid_sizes: Any, strides: Any) -> list[Tensor]:
        """Return each level's anchors, ignoring the strides that torchvision derives from the sizes."""
        exact: Any = [(stride, stride) for stride in self.strides]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, exact)
        return anchors


class HalfPixelRoIAlign(MultiScaleRoIAlign):
    """RoIAlign with pixel centres at half coordinates and one sample for each position in a bin.

    Args:
        featmap_names: Names of the levels, finest first.
        output_size: Side of the sampled map.
        strides: Strides of the levels.
    """

    def __init__(self, featmap_names: list[str], output_size: int, strides: Sequence[int]) -> None:
        super().__init__(featmap_names, output_size, sampling_ratio=0)
        self.strides = tuple(strides)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any = None) -> Tensor:
        """Return the features [boxes, C, size, size] of each image's boxes [n, 4], each from the level for its size."""
        rois = torch.cat([torch.nn.functional.pad(found, (1, 0), value=image) for image, found in enumerate(boxes)])
        level_of = self.levels(rois[:, 1:])
        first = x[self.featmap_names[0]]
        out = first.new_zeros((len(rois), first.shape[1], *self.output_size))
        for level, (name, stride) in enumerate(zip(self.featmap_names, self.strides, strict=True)):
            chosen = torch.where(level_of == level)[0]
            sampled = roi_align(x[name], rois[chosen], self.output_size, 1 / stride, sampling_ratio=0, aligned=True)
            out = out.index_put((chosen,), sampled.to(out.dtype))
        return out

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the number of the level of each box [n, 4]."""
        # a box of 56 pixels belongs to the finest level, of stride 4
        scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt() / (14 * self.strides[0])
        return torch.log2(scale + 1e-6).floor().clamp(0, len(self.strides) - 1)


class LinearP6P7(LastLevelP6P7):
    """P6 from C5 and P7 from P6, each by a convolution, without torchvision's ReLU in between.

    Args:
        in_channels: Channels of C5.
        out_channels: Channels of both.
    """

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Return the levels and their names with P6 and P7 added."""
        p6 = self.p6(c[-1])
        return [*p, p6, self.p7(p6)], [*names, "p6", "p7"]


def octaves(size: float) -> tuple[float, ...]:
    """Return RetinaNet's three sides within an octave.

    Example:
        >>> [round(side, 2) for side in octaves(32)]
        [32.0, 40.32, 50.8]
    """
    return tuple(size * math.exp2(step / 3) for step in range(3))
