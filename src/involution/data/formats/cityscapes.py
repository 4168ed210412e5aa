"""Cityscapes as it is unpacked: 19 classes, all else is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register

if TYPE_CHECKING:
    import numpy as np


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.label_code import LabelCode
    from involution.data.label_maps import segmentation_data

    root = Path(path)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    pairs = {split: _pairs(root, split) for split in ([options.only] if options.only else ["train", "val"])}
    return segmentation_data(spec, root, LabelCode(*_table()), pairs, Findings(), options)


def cityscapes_classes() -> list[str]:
    """Names of Cityscapes' 19 evaluated classes in the order of their labels."""
    return _table()[0]


def _table() -> tuple[list[str], np.ndarray[Any, Any]]:
    """The 19 classes that are evaluated, and the label of each of the data set's ids."""
    import numpy as np
    from torchvision.datasets import Cityscapes

    from involution.data.label_code import IGNORED

    evaluated = [item for item in Cityscapes.classes if 0 <= item.train_id < IGNORED]
    table = np.full(256, IGNORED)
    for item in evaluated:
        table[item.id] = item.train_id
    return [item.name for item in sorted(evaluated, key=lambda item: item.train_id)], table


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    files = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    if not files:
        raise DataError(
            f"{root}: no leftImg8bit/{split}/CITY/*_leftImg8bit.png; wanted Cityscapes as it is unpacked, leftImg8bit/ "
            "beside gtFine/"
        )
    return [
        (file, root / "gtFine" / split / file.parent.name / file.name.replace("leftImg8bit", "gtFine_labelIds"))
        for file in files
    ]


register(
    Format(
        name="cityscapes",
        task="segment",
        syntax="cityscapes:PATH",
        description="leftImg8bit/ next to gtFine/, as Cityscapes unpacks",
        open=_open,
        recognises=lambda folder: (folder / "leftImg8bit").is_dir(),
    )
)
