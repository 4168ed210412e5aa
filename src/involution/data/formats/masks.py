"""Label maps in folders: a picture beside each image whose values are the classes' places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.images import EXTENSIONS
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.text import read_names


def open_masks(spec: str, path: str, options: Options) -> DataSet[Any]:
    """Open train/ and val/ with images, labels/train/ and labels/val/ with PNG label maps of the same names.

    classes.txt holds the class names in the order of the values from 0; 255 is ignored.
    """
    import torch

    from involution.data.label_maps import IGNORED, segmentation_data

    root = Path(path)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    classes = _classes(root / "classes.txt", IGNORED)
    table = torch.full((256,), IGNORED)
    table[: len(classes)] = torch.arange(len(classes))
    pairs = {split: _pairs(root, split) for split in ("train", "val")}
    return segmentation_data(spec, root, classes, table, pairs, options, strict=True)


def _classes(file: Path, most: int) -> list[str]:
    if not file.is_file():
        raise DataError(f"no such file: {file}; wanted the class names, one a line, in the order of the labels from 0")
    return read_names(file, most=most)


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    folder = root / split
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(f"{root}: no images in {split}/")
    return [(file, root / "labels" / split / f"{file.stem}.png") for file in files]


def _recognises(folder: Path) -> bool:
    return (folder / "classes.txt").is_file() and (folder / "labels" / "train").is_dir()


register(
    Format(
        name="masks",
        task="segment",
        syntax="masks:PATH",
        description="images in train/ and val/, PNG label maps in labels/train/ and labels/val/, names in classes.txt",
        open=open_masks,
        recognises=_recognises,
    )
)
