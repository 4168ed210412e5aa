"""The outlines of masks, by contourpy."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from contourpy import FillType, contour_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ring = list[tuple[float, float]]


def outlines(mask: NDArray[Any]) -> list[list[Ring]]:
    """The polygons of a mask, each its outer ring and then its holes, as in GeoJSON's MultiPolygon.

    A pixel belongs to the mask if its middle is inside: nothing is lost. The middle of the first pixel is at 0.5, 0.5,
    as in boxes. A ring ends with the point that it begins with.

    Args:
        mask: `[H, W]` of bool.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # a margin, so that an outline at an edge closes
    values = np.pad(part, 1).astype(np.float64)
    generator = contour_generator(z=values, fill_type=FillType.OuterOffset)
    # its type is that of every kind of filling
    filled: Any = generator.filled(0.5, 2.0)
    points, offsets = filled
    origin = np.array([columns[0] - 0.5, rows[0] - 0.5])
    return [
        [_ring(polygon[first:last] + origin) for first, last in pairwise(ends.tolist())]
        for polygon, ends in zip(points, offsets, strict=True)
    ]


def _ring(points: NDArray[Any]) -> Ring:
    """The points where a closed line turns."""
    steps = np.diff(points, axis=0)
    before = np.roll(steps, 1, axis=0)
    turns = before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]
    found = points[:-1][turns].tolist()
    return [(x, y) for x, y in [*found, found[0]]]
