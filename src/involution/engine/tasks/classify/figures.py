"""The result of evaluating a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from involution.engine.figures import Figures

if TYPE_CHECKING:
    from torch import Tensor

    from involution.models.weights import PublishedWeights

# of ImageNet-1k's validation
_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class ClassificationFigures(Figures):
    """Figures of a classifier on one split.

    Attributes:
        top1: fraction of images whose best class is correct, 0 to 1.
        top5: fraction of images whose correct class is among the best five; None for five classes or fewer.
        loss: mean cross-entropy.
        confusion: [classes, classes], counts of images by true class (row) and predicted class (column).
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
        difficulty: cross-entropy of each image.
    """

    top1: float
    top5: float | None
    loss: float
    confusion: Tensor

    @classmethod
    def from_results(cls, results: dict[str, Any], **common: Any) -> Self:
        """The figures of a pass."""
        return cls(
            top1=float(results["accuracy"]),
            top5=float(results["top5"]) if "top5" in results else None,
            loss=float(results["loss"]),
            confusion=results["confusion"].cpu(),
            difficulty=results["difficulty"],
            **common,
        )

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Of each class its name, precision, recall and F1 (0 to 1, 0 where nothing can be divided) and images."""
        counts = self.confusion.double()
        hits, predicted, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        columns = (
            self.classes,
            (hits / predicted.clamp(min=1)).tolist(),
            (hits / true.clamp(min=1)).tolist(),
            (2 * hits / (predicted + true).clamp(min=1)).tolist(),
            true.long().tolist(),
        )
        names = ("name", "precision", "recall", "f1", "images")
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that have images or predictions, 0 to 1."""
        seen = (self.confusion.sum(0) + self.confusion.sum(1) > 0).tolist()
        found = [row["f1"] for row, counted in zip(self.per_class, seen, strict=True) if counted]
        return sum(found) / max(len(found), 1)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """One row."""
        cells = {"images": f"{self.num_images:,}", "top-1": f"{self.top1:.2%}"}
        if self.top5 is not None:
            cells["top-5"] = f"{self.top5:.2%}"
        cells |= {"mean F1": f"{self.mean_f1:.2%}", "loss": f"{self.loss:.4f}"}
        cells["images/s"] = f"{self.images_per_second:,.0f}"
        return list(cells), [list(cells.values())]

    def class_table(self) -> tuple[list[str], list[list[str]]]:
        """A row for each class."""
        rows = [
            [row["name"], f"{row['images']:,}", *(f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))]
            for row in self.per_class
        ]
        return ["class", "images", "precision %", "recall %", "F1 %"], rows

    def table_beside(self, published: PublishedWeights | None) -> tuple[list[str], list[list[str]], str]:
        """The row with those of the published figures below it."""
        header, rows = self.table()
        if published is None:
            return header, rows, ""
        rows = [["measured here", *rows[0]]]
        for who, (top1, top5) in published.figures.items():
            told = {"images": f"{_IMAGES:,}", "top-1": f"{top1:.2f}%", "top-5": f"{top5:.2f}%"}
            rows.append([f"published by {who}", *(told.get(name, "") for name in header)])
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
        """The classes that do worst, where there is more than one to tell apart."""
        worst = sorted((row for row in self.per_class if row["images"]), key=lambda row: row["f1"])[:3]
        shown = ", ".join(f"{row['name']} {row['f1']:.1%}" for row in worst)
        return f"lowest F1: {shown}" if len(self.classes) > 3 else ""

    def to_dict(self) -> dict[str, Any]:
        """Accuracies, loss, counts, and figures of each class."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_f1": self.mean_f1,
            "loss": self.loss,
            "classes": self.classes,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
        }
