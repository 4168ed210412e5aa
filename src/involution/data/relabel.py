"""A data set with its labels as another list of classes has them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from involution.data.box_dataset import BoxDataset
from involution.data.images import ImageError
from involution.data.label_maps import LabelMaps
from involution.data.labelled import labels_of
from involution.data.records import DataSet, item_name


class Relabelled(Dataset[tuple[Any, int]]):
    """Images with one label each, under other labels.

    Args:
        source: yields (image, label).
        places: the new label of each.
    """

    def __init__(self, source: Any, places: Sequence[int]) -> None:
        self.source = source
        self.places = list(places)

    def __len__(self) -> int:
        return len(self.source)

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return item_name(self.source, index)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.source[index]
        return image, self.places[label]


def occurring(data: DataSet[Any]) -> set[int]:
    """The labels that occur anywhere in a data set; of parts of another kind all. Label maps are read for it."""
    return {label for part in data.parts.values() for label in _labels(part, len(data.classes))}


def _labels(part: Any, count: int) -> set[int]:
    if isinstance(part, BoxDataset):
        return {box.label for scene in part.record.scenes for box in scene.boxes}
    if isinstance(part, LabelMaps):
        found: set[int] = set()
        for _, file in part.pairs:
            # what can't be read is told where it is measured
            with suppress(ImageError):
                found.update(np.unique(part.code.read(file, part.reading)).tolist())
        return found
    return set(labels_of(part)) if hasattr(part, "labels") or hasattr(part, "indices") else set(range(count))


def relabel(data: DataSet[Any], places: Sequence[int], classes: list[str], category_ids: list[int]) -> DataSet[Any]:
    """A data set with other labels.

    Args:
        data: the data set.
        places: for each of its classes the place in the new list; -1 for one of which there is nothing.
        classes: the new list of names.
        category_ids: of the new classes, where boxes have such.
    """
    parts = {name: _relabelled(part, places, classes, category_ids) for name, part in data.parts.items()}
    return replace(data, classes=classes, parts=parts)


def _relabelled(part: Any, places: Sequence[int], classes: list[str], category_ids: list[int]) -> Any:
    if isinstance(part, BoxDataset):
        scenes = [
            replace(scene, boxes=tuple(replace(box, label=places[box.label]) for box in scene.boxes))
            for scene in part.record.scenes
        ]
        record = replace(part.record, classes=classes, category_ids=category_ids, scenes=scenes)
        return BoxDataset(record, part.masks, part.reading)
    if isinstance(part, LabelMaps):
        return LabelMaps(part.pairs, part.code.relabelled(places, classes), part.reading)
    return Relabelled(part, places)
