"""The result of evaluating a detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from involution.engine.figures import Figures, or_none

_COLUMNS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR100")


@dataclass(frozen=True, kw_only=True)
class DetectionFigures(Figures):
    """Figures of a detector on one split.

    Attributes:
        bbox: COCO's twelve figures of the boxes, 0 to 1: ap, ap50, ap75, …
        segm: the same for masks; None for a detector without masks.
        class_ap: AP of the boxes of each class, 0 to 1; NaN for a class without objects.
        precision: precision of the boxes at the recalls 0, 0.01, ..., 1 at IoU 0.5, the mean of the classes; empty
            without objects.
        results: every detection, in COCO's results format.
        num_images: images counted, each once.
        images_per_second: images per second, loading and evaluation included.
        classes: category names.
        split: the split's name.
        difficulty: mistakes in each image: objects missed, and false detections of a score of 0.5 or more, at IoU 0.5.
    """

    predictions_help = "write every detection as JSON, in COCO's results format"

    bbox: dict[str, float]
    segm: dict[str, float] | None
    class_ap: list[float]
    precision: list[float]
    results: list[dict[str, Any]]

    @classmethod
    def from_results(cls, results: dict[str, Any], **common: Any) -> Self:
        """The figures of a pass."""
        own = {name: results[name] for name in ("bbox", "class_ap", "precision", "difficulty", "results")}
        return cls(segm=results.get("segm"), **own, **common)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """COCO's table, in percent."""
        rows = []
        for name, figures in (("boxes", self.bbox), ("masks", self.segm)):
            if figures is not None:
                cells = (figures[column.lower().replace(" ", "_")] for column in _COLUMNS)
                rows.append([name, *("–" if math.isnan(cell) else f"{100 * cell:.1f}" for cell in cells)])
        return ["%", *_COLUMNS], rows

    def class_table(self) -> tuple[list[str], list[list[str]]]:
        """AP of the boxes of each class, in percent."""
        named = zip(self.classes, self.class_ap, strict=True)
        return ["class", "AP %"], [[name, "–" if math.isnan(value) else f"{100 * value:.1f}"] for name, value in named]

    def to_dict(self) -> dict[str, Any]:
        """COCO's figures, and AP by class; null if the data has no such object."""
        plain = {name: or_none(value) for name, value in self.bbox.items()}
        masks = None if self.segm is None else {name: or_none(value) for name, value in self.segm.items()}
        classes = {name: or_none(value) for name, value in zip(self.classes, self.class_ap, strict=True)}
        return {"bbox": plain, "segm": masks, "class_ap": classes}

    def predictions(self) -> list[dict[str, Any]]:
        """Every detection, in COCO's results format."""
        return self.results
