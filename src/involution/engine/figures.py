"""The result of an evaluation, for any task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

if TYPE_CHECKING:
    from involution.models.weights import PublishedWeights


@dataclass(frozen=True, kw_only=True)
class Figures(ABC):
    """Figures of a checkpoint on one split, to which a task adds its own.

    Attributes:
        num_images: images counted, each once.
        images_per_second: images per second, loading included.
        classes: class names.
        split: the split's name.
        difficulty: how hard each image was, in the split's order; empty where a task does not tell.
    """

    # what `predictions` returns, for the command-line help; empty if the task keeps none
    predictions_help: ClassVar[str] = ""

    num_images: int
    images_per_second: float
    classes: list[str]
    split: str
    difficulty: list[float] = field(default_factory=list, repr=False)

    @classmethod
    @abstractmethod
    def from_results(cls, results: dict[str, Any], **common: Any) -> Self:
        """The figures in `TaskModule.results`; `common` are the attributes above."""

    @abstractmethod
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table that the command line shows; the first column holds names if it has a title."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The task's own figures in JSON's types."""

    def summary(self) -> str:
        """One line below the table, or an empty string."""
        return f"{self.num_images:,} images, {self.images_per_second:,.1f} images/s"

    def class_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a second table with figures of each class; nothing if `table` has them."""
        return [], []

    def table_beside(self, published: PublishedWeights | None) -> tuple[list[str], list[list[str]], str]:
        """The table with what was published of the same weights below it, and what differs; empty where nothing was.

        Args:
            published: the weights, if they are published ones.
        """
        header, rows = self.table()
        return header, rows, ""

    def predictions(self) -> Sequence[dict[str, Any]] | None:
        """Every prediction in JSON's types, if the task keeps them."""
        return None


def or_none(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value
