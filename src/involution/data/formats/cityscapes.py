"""Cityscapes as it is unpacked: 19 classes, all else is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.paths import need_folder
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.walk import is_rubbish

if TYPE_CHECKING:
    import numpy as np

# what gtFine has besides the label maps
_OWN = ("color", "instanceIds", "polygons", "labelTrainIds", "instanceTrainIds")
_STRANGE = "files whose names are not CITY/*_leftImg8bit.png or CITY/*_gtFine_labelIds.png"


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.label_code import LabelCode, tell_needless
    from involution.data.label_maps import segmentation_data

    root = Path(path)
    need_folder(root)
    pairs = {split: _pairs(root, split) for split in ([options.only] if options.only else ["train", "val"])}
    findings = Findings()
    _tell_others(root, pairs, findings)
    tell_needless(options, "Cityscapes' own table has the class of each value", findings)
    return segmentation_data(spec, root, LabelCode(*_table()), pairs, findings, options)


def _tell_others(root: Path, pairs: dict[str, list[tuple[Path, Path]]], findings: Findings) -> None:
    """Say which files that Cityscapes itself brings are not needed, and which images and maps have other names."""
    used = {file for files in pairs.values() for pair in files for file in pair}
    for split in pairs:
        for folder, name in (("leftImg8bit", "*_leftImg8bit.png"), ("gtFine", "*_gtFine_*.*")):
            for file in sorted((root / folder / split).rglob("*")):
                parts = file.relative_to(root).parts
                if file in used or not file.is_file() or any(part[0] == "." or is_rubbish(part) for part in parts):
                    continue
                own = file.match(name) and file.stem.rpartition("_")[2] in _OWN
                lone = file.match("*_gtFine_labelIds.png")
                reason = "label maps without an image" if lone else "other files of Cityscapes" if own else _STRANGE
                findings.ignore(reason, file.relative_to(root))
                findings.saw(file)


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
