"""Images in folders, one folder a class, with or without folders of splits above them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register

# of images that come without splits
_SHARE = 0.2


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.folders import class_folders, read_folder
    from involution.data.labelled import classification_data
    from involution.data.splits import stratified_split

    root = Path(path)
    if (root / "train").is_dir():
        return open_split_folders(spec, root, options)
    classes = class_folders(root)
    everything = read_folder(root, classes)
    everything.check()
    rest, test = stratified_split(everything.labels, _SHARE, options.split_seed)
    keep = everything.subset(rest.tolist())
    train, val = stratified_split(keep.labels, _SHARE / (1 - _SHARE), options.split_seed)
    parts = {
        "train": keep.subset(train.tolist()),
        "val": keep.subset(val.tolist()),
        "test": everything.subset(test.tolist()),
    }
    return classification_data(spec, classes, parts, Findings(), options)


def open_split_folders(spec: str, root: Path, options: Options) -> DataSet[Any]:
    """Open train/, val/ and perhaps test/, each with one folder per class."""
    from involution.data.folders import class_folders, read_folder
    from involution.data.labelled import classification_data

    if not (root / "val").is_dir():
        raise DataError(f"{root} has train/ but no val/; wanted both, each with one folder per class")
    classes = class_folders(root / "train")
    parts: dict[str, Any] = {}
    for split in SPLITS:
        if (root / split).is_dir():
            parts[split] = read_folder(root / split, classes)
            parts[split].check()
    return classification_data(spec, classes, parts, Findings(), options)


register(
    Format(
        name="imagefolder",
        task="classify",
        syntax="imagefolder:PATH",
        description="one folder of images a class, below train/, val/ and perhaps test/, or split 60 / 20 / 20",
        open=_open,
    )
)
