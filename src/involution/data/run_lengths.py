"""Masks of objects as COCO writes them: polygons, or run lengths, plain or compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# of an object with more polygons these are compared with each other
_MOST_RINGS = 100


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray[Any, Any]:
    """A mask [H, W] of 0 and 1 from COCO's polygons, or its plain or compressed run lengths."""
    from pycocotools import mask as run_lengths

    mask: np.ndarray[Any, Any] = run_lengths.decode(_encoded(segmentation, height, width))
    return mask


def mask_bounds(segmentation: Any, height: int, width: int) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of the pixels of a mask, None where it has none."""
    from pycocotools import mask as run_lengths

    encoded = _encoded(segmentation, height, width)
    if not run_lengths.area(encoded):
        return None
    left, top, box_width, box_height = map(float, run_lengths.toBbox(encoded))
    return left, top, left + box_width, top + box_height


def _encoded(segmentation: Any, height: int, width: int) -> Any:
    from pycocotools import mask as run_lengths

    if isinstance(segmentation, list):
        return run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return run_lengths.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": segmentation["counts"].encode("ascii")}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number to reckon with."""
    # neither NaN nor infinite, nor a whole number that no float can be
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


def mask_complaint(segmentation: Any, height: int, width: int) -> str | None:
    """What is wrong with a mask of an image of this size, None for nothing."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            size = segmentation.get("size")
            swapped = "; --data.exif ignore if EXIF turns the image and they are for the stored pixels"
            hint = swapped if size == [width, height] else ""
            return f"run lengths of size {size} for an image of [{height}, {width}] (height, width){hint}"
        counts = segmentation.get("counts")
        if not isinstance(counts, list | str):
            return "run lengths without counts"
        # pycocotools would show whatever lies in memory where a compressed mask ends early
        runs = counts if isinstance(counts, list) else expand(counts)
        if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
            return f"run lengths that don't add up to {height} x {width} pixels"
        return None
    whole = isinstance(segmentation, list) and segmentation
    if not whole or not all(
        isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 and all(map(is_number, ring))
        for ring in segmentation
    ):
        return "no mask: wanted polygons of at least three points, or run lengths"
    # drawing a line takes memory by its length
    if any(
        not -side <= value <= 2 * side
        for ring in segmentation
        for values, side in ((ring[0::2], width), (ring[1::2], height))
        for value in values
    ):
        return f"a polygon extends far outside an image of {width} x {height}"
    return None


def mask_area(segmentation: Any) -> float:
    """Pixels of a mask about which `mask_complaint` says nothing; of polygons the area inside their lines."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return float(sum((counts if isinstance(counts, list) else expand(counts))[1::2]))
    return sum(map(_ring_area, segmentation))


def _ring_area(ring: Sequence[float]) -> float:
    xs, ys = ring[0::2], ring[1::2]
    around = zip(xs, [*ys[1:], ys[0]], [ys[-1], *ys[:-1]], strict=True)
    return abs(sum(x * (after - before) for x, after, before in around)) / 2


def has_filled_hole(segmentation: Any) -> bool:
    """Whether polygons have one inside another, which adds nothing to it: whoever wrote it surely meant a hole."""
    if not isinstance(segmentation, list):
        return False
    rings = segmentation[:_MOST_RINGS]
    boxes = [(min(ring[0::2]), min(ring[1::2]), -max(ring[0::2]), -max(ring[1::2])) for ring in rings]
    return any(
        all(inner > outer for inner, outer in zip(box, other_box, strict=True))
        and all(_is_inside(x, y, other) for x, y in zip(ring[0::2], ring[1::2], strict=True))
        for ring, box in zip(rings, boxes, strict=True)
        for other, other_box in zip(rings, boxes, strict=True)
    )


def _is_inside(x: float, y: float, ring: Sequence[float]) -> bool:
    """Whether a point is inside a polygon: a line from it to the right crosses the polygon's an odd number of times."""
    inside = False
    before_x, before_y = ring[-2], ring[-1]
    for here_x, here_y in zip(ring[0::2], ring[1::2], strict=True):
        if (here_y > y) != (before_y > y):
            inside ^= x < here_x + (y - here_y) * (before_x - here_x) / (before_y - here_y)
        before_x, before_y = here_x, here_y
    return inside


def expand(text: str) -> list[int]:
    """Return the runs of COCO's compressed form, a negative one where it is broken.

    A number is written in groups of five bits, the lowest first, each a character from "0" on; 32 says that another
    group follows, 16 in the last one that it is negative. From the third run on it is the difference to the last but
    one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 50:
            return [-1]
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return [-1] if shift else runs
