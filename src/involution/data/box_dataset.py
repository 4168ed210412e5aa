"""Images with boxes and masks as torchvision's detectors and transforms want them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.boxes import Box, BoxRecord, Scene
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.images import ImageError, read_image
from involution.data.records import DataSet
from involution.data.registry import Options
from involution.data.run_lengths import decode_mask


class BoxDataset(Dataset[Any]):
    """The images of a record with their targets.

    An item is an image (``tv_tensors.Image``, uint8, [3, H, W]) and a dict: ``boxes`` (``BoundingBoxes`` [n, 4],
    x1 y1 x2 y2 in pixels), ``labels`` [n] from 0, ``image_id``, and with ``masks`` ``tv_tensors.Mask`` [n, H, W].
    Regions marked as crowds are left out.

    Args:
        record: the images.
        masks: decode the masks, too.
    """

    def __init__(self, record: BoxRecord, masks: bool = False) -> None:
        if not record.scenes:
            raise DataError(f"{record.source}: no images")
        self.record = record
        self.masks = masks

    def __len__(self) -> int:
        return len(self.record.scenes)

    def with_objects(self) -> BoxDataset:
        """The images that have objects, crowds not counted."""
        scenes = [scene for scene in self.record.scenes if _objects(scene)]
        if not scenes:
            raise DataError(f"{self.record.source}: no images with annotations")
        return BoxDataset(replace(self.record, scenes=scenes), self.masks)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        scene = self.record.scenes[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(scene.file).convert("RGB")))
        size = (scene.height, scene.width)
        if tuple(image.shape[1:]) != size:
            raise ImageError(
                f"{scene.file}: {image.shape[2]} x {image.shape[1]} pixels, but its annotations are for "
                f"{size[1]} x {size[0]}"
            )
        found = _objects(scene)
        boxes = torch.tensor([box.xywh for box in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([box.label for box in found], dtype=torch.int64),
            "image_id": scene.id,
        }
        if self.masks:
            masks = [decode_mask(box.mask, *size) for box in found]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return image, target


def _objects(scene: Scene) -> list[Box]:
    return [box for box in scene.boxes if not box.crowd]


class DetectionData(DataSet[BoxDataset]):
    """A detection data set."""

    @property
    def category_ids(self) -> list[int]:
        """The source's id of each class: what a result is told by."""
        return self.train.record.category_ids


def detection_data(
    spec: str, where: Path, records: dict[str, BoxRecord], findings: Findings, options: Options
) -> DetectionData:
    """A detection data set from the records of its splits, which must have the same classes.

    Raises:
        DataError: for problems that are not to be skipped, splits without images, or of other classes.
    """
    findings.settle(where, options.on_problem)
    parts = {split: BoxDataset(record, options.masks) for split, record in records.items()}
    first, *others = records.items()
    for split, record in others:
        if (record.category_ids, record.classes) != (first[1].category_ids, first[1].classes):
            raise DataError(
                f"{where}: {first[0]} and {split} have different categories "
                f"({len(first[1].classes)} and {len(record.classes)})"
            )
    findings.used.update({split: len(part) for split, part in parts.items()})
    return DetectionData(spec, first[1].classes, parts, findings)
