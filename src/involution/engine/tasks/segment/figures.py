"""The result of evaluating a segmenter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from involution.engine.figures import Figures, or_none

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SegmentationFigures(Figures):
    """Figures of a segmenter on one split.

    Attributes:
        miou: mean intersection over union of the classes, 0 to 1; classes that neither appear nor are predicted, or
            whose value in label maps is ignored, are left out.
        iou: intersection over union of each class, NaN for those that are left out.
        accuracy: fraction of the labelled pixels that are correct, NaN without such pixels.
        confusion: [classes, classes], counts of pixels by true class (row) and predicted class (column).
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
        difficulty: 1 minus the mean IoU of each image.
    """

    miou: float
    iou: list[float]
    accuracy: float
    confusion: Tensor

    @classmethod
    def from_results(cls, results: dict[str, Any], **common: Any) -> Self:
        """The figures of a pass."""
        return cls(
            miou=float(results["miou"]),
            iou=results["iou"].tolist(),
            accuracy=float(results["accuracy"]),
            confusion=results["confusion"].cpu(),
            difficulty=results["difficulty"],
            **common,
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """IoU of each class and their mean, in percent."""
        named = [*zip(self.classes, self.iou, strict=True), ("mean", self.miou)]
        return ["class", "IoU %"], [[name, "–" if math.isnan(value) else f"{100 * value:.1f}"] for name, value in named]

    def summary(self) -> str:
        """Pixels, images and speed."""
        correct = "no pixel that counts" if math.isnan(self.accuracy) else f"{self.accuracy:.2%} of pixels correct"
        return f"{correct}, {super().summary()}"

    def to_dict(self) -> dict[str, Any]:
        """IoU by class, its mean, accuracy and counts."""
        return {
            "miou": or_none(self.miou),
            "accuracy": or_none(self.accuracy),
            "iou": {name: or_none(value) for name, value in zip(self.classes, self.iou, strict=True)},
            "confusion": self.confusion.tolist(),
        }
