"""Images with boxes, between the formats that they are read from and the tasks that they serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# boxes may reach this many pixels beyond the image, as rounding makes COCO's own do; they are cut there
_SLACK = 2.0


@dataclass(frozen=True, slots=True)
class Box:
    """One object.

    Attributes:
        label: its class, a place in the list of classes.
        xywh: left, top, width and height in pixels, as the source has them: they may reach a little out of the image.
        crowd: whether it stands for many objects that are not told apart.
        area: of the object in pixels as the source tells, or that of its mask; None for that of the box.
        mask: polygons or run lengths as COCO has them, decoded when wanted; None without.
        id: its id in the source, or a number given in reading.
    """

    label: int
    xywh: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None
    mask: Any = None
    id: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """One image and its objects.

    Attributes:
        id: its id in the source, or a number given in reading.
        file: the image file.
        width: in pixels.
        height: in pixels.
        boxes: the objects.
        split: what the source says its split is; empty where it says nothing.
        spoiled: whether objects of it are malformed, and left out.
    """

    id: int
    file: Path
    width: int
    height: int
    boxes: tuple[Box, ...]
    split: str = ""
    spoiled: bool = False


@dataclass(frozen=True)
class BoxRecord:
    """The images of one split with their objects.

    Attributes:
        source: the file or folder that the objects were read from.
        classes: class names; a label is a place in this list.
        category_ids: the source's id of each class.
        scenes: the images.
    """

    source: Path
    classes: list[str]
    category_ids: list[int]
    scenes: list[Scene]

    def to_coco(self) -> dict[str, Any]:
        """The record as the content of a file in COCO's instances format."""
        images = [
            {"id": scene.id, "file_name": scene.file.name, "width": scene.width, "height": scene.height}
            for scene in self.scenes
        ]
        annotations = [self._annotation(scene, box) for scene in self.scenes for box in scene.boxes]
        categories = [{"id": key, "name": name} for key, name in zip(self.category_ids, self.classes, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _annotation(self, scene: Scene, box: Box) -> dict[str, Any]:
        annotation = {
            "id": box.id,
            "image_id": scene.id,
            "category_id": self.category_ids[box.label],
            "bbox": list(box.xywh),
            "area": box.xywh[2] * box.xywh[3] if box.area is None else box.area,
            "iscrowd": int(box.crowd),
        }
        return annotation if box.mask is None else {**annotation, "segmentation": box.mask}


def box_complaint(xywh: tuple[float, float, float, float], width: int, height: int, share: float = 0.0) -> str | None:
    """What is wrong with a box in an image of this size, None for nothing.

    Args:
        xywh: left, top, width and height.
        width: of the image in pixels.
        height: of the image in pixels.
        share: of the image's longer side that it may reach out besides two pixels.
    """
    slack = _SLACK + share * max(width, height)
    x, y, box_width, box_height = xywh
    shown = list(xywh)
    if box_width <= 0 or box_height <= 0:
        return f"box of zero area: {shown}"
    right, bottom = x + box_width, y + box_height
    if min(x, y) < -slack or right > width + slack or bottom > height + slack:
        return f"box {shown} extends outside an image of {width} x {height}"
    if min(right, width) <= max(x, 0) or min(bottom, height) <= max(y, 0):
        return f"box {shown} lies outside an image of {width} x {height}"
    return None
