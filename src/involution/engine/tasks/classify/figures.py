"""The result of evaluating a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import Self

from involution.engine.figures import Figures


@dataclass(frozen=True, kw_only=True)
class ClassificationFigures(Figures):
    """Figures of a classifier on one split.

    Attributes:
        top1: fraction of images whose best class is correct, 0 to 1.
        top5: fraction of images whose correct class is among the best five.
        loss: mean cross-entropy.
        confusion: [classes, classes], counts of images by true class (row) and predicted class (column).
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
    """

    top1: float
    top5: float
    loss: float
    confusion: Tensor

    @classmethod
    def from_results(cls, results: dict[str, Any], **common: Any) -> Self:
        """The figures of a pass."""
        return cls(
            top1=float(results["accuracy"]),
            top5=float(results["top5"]),
            loss=float(results["loss"]),
            confusion=results["confusion"].cpu(),
            **common,
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """One row."""
        header = ["images", "top-1", f"top-{min(5, len(self.classes))}", "loss", "images/s"]
        rate = f"{self.images_per_second:,.0f}"
        return header, [[f"{self.num_images:,}", f"{self.top1:.2%}", f"{self.top5:.2%}", f"{self.loss:.4f}", rate]]

    def summary(self) -> str:
        """Nothing: the table has everything."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Accuracies, loss and counts."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "classes": self.classes,
            "confusion": self.confusion.tolist(),
        }
