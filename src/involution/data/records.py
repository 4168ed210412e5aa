"""What every data set offers, whatever its task and format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from involution.data.errors import DataError
from involution.data.findings import Findings

SPLITS = ("train", "val", "test")
Part = TypeVar("Part")


@dataclass(frozen=True)
class DataSet(Generic[Part]):
    """A data set in its parts.

    Each part is a ``torch.utils.data.Dataset`` with a length. Its items are (image, label) for classification; (image,
    target of boxes) for detection; (image, label map) for segmentation.

    Attributes:
        spec: what it was opened by.
        classes: class names; a label is a place in this list.
        parts: by name: train, val and perhaps test.
        findings: what was used and what was not.
    """

    spec: str
    classes: list[str]
    parts: dict[str, Part]
    findings: Findings

    def split(self, name: str) -> Part:
        """One part by its name: train, val or test."""
        if name not in SPLITS:
            raise DataError(f"no split named {name!r}; wanted train, val or test")
        if name not in self.parts:
            raise DataError(f"{self.spec} has no {name} split; use {' or '.join(self.parts)} by --split")
        return self.parts[name]

    @property
    def train(self) -> Part:
        """What is trained on."""
        return self.split("train")

    @property
    def val(self) -> Part:
        """What chooses the checkpoint."""
        return self.split("val")

    @property
    def test(self) -> Part | None:
        """What is used once, for the figure reported; None where the source has none with labels."""
        return self.parts.get("test")

    @property
    def problems(self) -> list[str]:
        """What is malformed and was left out."""
        return [str(problem) for problem in self.findings.problems]


def item_name(part: Any, index: int) -> str:
    """What an image of a split is called in messages: its file, where it has one."""
    if hasattr(part, "name_of"):
        return str(part.name_of(index))
    if hasattr(part, "indices"):
        # a torch Subset
        return item_name(part.dataset, part.indices[index])
    return f"image {index}"
