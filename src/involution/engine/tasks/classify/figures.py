"""The result of evaluating a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from typing_extensions import Self

from involution.engine.figures import Figures

if TYPE_CHECKING:
    from involution.models.weights import PublishedWeights

# of ImageNet-1k's validation
_IMAGES = 50_000


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

    def table_beside(self, published: PublishedWeights | None) -> tuple[list[str], list[list[str]], str]:
        """The row with those of the published figures below it."""
        header, rows = self.table()
        if published is None:
            return header, rows, ""
        rows = [["measured here", *rows[0]]]
        for who, (top1, top5) in published.figures.items():
            rows.append([f"published by {who}", f"{_IMAGES:,}", f"{top1:.2f}%", f"{top5:.2f}%", "", ""])
        classes = int((self.confusion.sum(1) > 0).sum())
        side, short = published.input_size[-1], round(published.input_size[-1] / published.crop_pct)
        lines = [
            f"shorter side {short} pixels, {side}² centre crop, {published.interpolation}: the published measurements "
            "resized by OpenCV without antialiasing, this one antialiases; some tenths of a percent may come from that"
        ]
        if (self.num_images, classes) != (_IMAGES, published.num_classes):
            lines.append(
                f"not to be compared: {self.num_images:,} images of {classes} classes were measured, the published "
                f"figures are of {_IMAGES:,} images of {published.num_classes} classes"
            )
        return ["", *header], rows, "\n".join(lines)

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
