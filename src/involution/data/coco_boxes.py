"""Boxes of COCO's format that surely mean something else than they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings, some
from involution.data.images import CHECK_LIMIT, MAX_PIXELS
from involution.data.run_lengths import is_number, mask_bounds, mask_complaint

# fewer boxes may agree with another meaning by chance
_LEAST = 3
# of turned boxes
TAKEN = "which is not used: taken are the upright boxes of the same middle, width and height"
Corners = tuple[float, float, float, float]


def tell_strange_boxes(file: Path, items: Sequence[Any], split: str, findings: Findings) -> None:
    """Say which boxes lie elsewhere than their masks, are turned, or have a score, and which masks can't be read.

    Args:
        file: the annotation file.
        items: its annotations, still unchecked.
        split: what they are told by.
        findings: told of them.

    Raises:
        DataError: where bbox holds two corners by the areas and masks beside it, instead of a width and height.
    """
    plain = corners = lengths = 0
    apart: list[str] = []
    areas: list[str] = []
    turned: list[str] = []
    scored: list[str] = []
    unreadable: list[str] = []
    for item in items:
        box = item.get("bbox") if isinstance(item, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
            continue
        attributes = item.get("attributes")
        angle = attributes.get("rotation") if isinstance(attributes, dict) else None
        name = f"annotation {item.get('id')}"
        turned += [name] if isinstance(angle, int | float) and angle % 360 else []
        scored += [name] if "score" in item else []
        x, y, width, height = box
        area = item.get("area")
        areas += [name] if is_number(area) and not 0 < area <= 1.01 * (width + 1) * (height + 1) else []
        # of very many run lengths the first ones tell
        lengths += isinstance(item.get("segmentation"), dict)
        hull = _hull(item.get("segmentation")) if lengths <= CHECK_LIMIT else None
        # whether run lengths fit depends on the image
        polygons = not isinstance(item.get("segmentation"), dict)
        unreadable += [name] if polygons and item.get("segmentation") and hull is None else []
        if hull is not None:
            fits, fits_corners = overlap((x, y, x + width, y + height), hull), overlap((x, y, width, height), hull)
            apart += [name] if fits < 0.5 else []
            plain, corners = plain + (fits > fits_corners), corners + (fits < fits_corners > 0.9)
        # that of a mask is smaller than its box
        elif is_number(item.get("area")) and not item.get("segmentation"):
            fits_area = _near(item["area"], width * height)
            plain += fits_area
            corners += not fits_area and width > x and height > y and _near(item["area"], (width - x) * (height - y))
    if corners >= _LEAST and not plain:
        raise DataError(
            f"{file}: bbox is left, top, width and height in COCO's format, but by the areas and masks of {corners} "
            "annotations these are left, top, right and bottom; subtract left and top from the last two"
        )
    if scored:
        findings.note(f"{split}: annotations with a score, as detections have, all taken as objects: {some(scored)}")
    if unreadable:
        findings.note(
            f"{split}: segmentations that are no lists of polygons of three points or more, which no mask can be made "
            f"of: {some(unreadable)}"
        )
    if apart:
        findings.note(f"{split}: boxes that do not fit their masks: {some(apart)}")
    if areas:
        findings.note(
            f"{split}: areas of 0, or larger than the box, by which COCO's figures count small and large objects: "
            f"{some(areas)}"
        )
    if turned:
        findings.note(f"{split}: boxes turned by an angle, {TAKEN}: {some(turned)}")


def _hull(polygons: Any) -> Corners | None:
    """The corners of the box around polygons or run lengths, None for what is none."""
    if isinstance(polygons, dict):
        size = polygons.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            return None
        height, width = size
        if height * width > MAX_PIXELS or mask_complaint(polygons, height, width) is not None:
            return None
        return mask_bounds(polygons, height, width)
    if not isinstance(polygons, list) or not polygons or not all(isinstance(polygon, list) for polygon in polygons):
        return None
    if not all(len(polygon) >= 6 and all(is_number(value) for value in polygon) for polygon in polygons):
        return None
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes, widened by a pixel so that thin ones count."""
    shared = 1.0
    areas = [1.0, 1.0]
    for axis in (0, 1):
        shared *= max(0.0, min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) + 1)
        areas = [area * (box[axis + 2] - box[axis] + 1) for area, box in zip(areas, (one, other), strict=True)]
    return shared / max(sum(areas) - shared, 1e-9)


def _near(area: float, other: float) -> bool:
    return abs(area - other) <= 0.5 + 0.01 * abs(other)
