"""Detection data as the engine opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.box_dataset import BoxDataset
from involution.data.boxes import BoxRecord
from involution.data.errors import in_words
from involution.data.registry import Options, open_data


class CocoData:
    """The images of one split with their annotations, in COCO's terms."""

    def __init__(self, part: BoxDataset, problems: list[str]) -> None:
        self.record: BoxRecord = part.record
        self.file = part.record.source
        self.category_ids = part.record.category_ids
        self.classes = part.record.classes
        self.problems = problems
        content = part.record.to_coco()
        self.images = {image["id"]: image for image in content["images"]}
        self.annotations: dict[int, list[dict[str, Any]]] = {key: [] for key in self.images}
        for item in content["annotations"]:
            self.annotations[item["image_id"]].append(item)


class CocoDataset(BoxDataset):
    """The images of a split, with their targets."""

    def __init__(self, data: CocoData, masks: bool = False, annotated_only: bool = False) -> None:
        whole = BoxDataset(data.record, masks)
        super().__init__((whole.with_objects() if annotated_only else whole).record, masks)


def open_coco(spec: str, *, on_problem: str = "refuse", masks: bool = False) -> dict[str, CocoData]:
    """Open a detection data set; see `open_data`."""
    data = open_data("detect", spec, Options(on_problem=on_problem, masks=masks))
    return {
        split: CocoData(part, [text for text in data.problems if text.startswith(f"{split} ")])
        for split, part in data.parts.items()
    }


def report(file: Path, problems: list[str]) -> str:
    """Malformed entries of a file in words, the first of them by name."""
    return f"{file}: {in_words(problems, 'problems' if len(problems) > 1 else 'problem')}"
