"""Where the files of a data set in COCO's format lie, as its publishers and the tools of labelling lay them out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.folders import subfolders
from involution.data.records import SPLITS
from involution.data.splits import SPLIT_NAMES, name_splits


class CocoFile(NamedTuple):
    """An annotation file, and the folders that its images are looked for in."""

    file: Path
    folders: list[Path]


def find_files(root: Path, findings: Findings, wanted: tuple[str, ...]) -> dict[str, CocoFile]:
    """The annotation file of each split, or of ``all`` where one file holds all images.

    - ``annotations/instances_train2017.json``, images in ``train2017/`` or ``images/train2017/`` (COCO, CVAT);
    - ``train/_annotations.coco.json`` beside the images, ``valid/`` and ``test/`` alike (Roboflow);
    - ``annotations/train.json`` or ``train.json``, images in ``train/``, ``images/train/`` or ``images/``;
    - one file alone, ``result.json`` or ``annotations/instances_default.json``, images in ``images/`` (Label Studio).

    Args:
        root: the folder.
        findings: told what was recognised.
        wanted: splits that must be there.

    Raises:
        DataError: where a wanted split has no file or several.
    """
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    found = _beside_images(root, findings)
    if not found:
        files = sorted((root / "annotations").glob("*.json")) or sorted(root.glob("*.json"))
        instances = [file for file in files if file.stem.startswith("instances_")]
        files = instances or files
        if len(files) == 1 and not any(_stands_for(files[0].stem, split) for split in SPLITS):
            return {"all": CocoFile(files[0], _folders(root, files[0].stem.removeprefix("instances_")))}
        for split in SPLITS:
            fitting = [file for file in files if _stands_for(file.stem, split)]
            if split in wanted and len(fitting) != 1:
                names = ", ".join(file.name for file in fitting) or "none"
                raise DataError(f"{root}: wanted one annotations/instances_{split}*.json, found {names}")
            if len(fitting) == 1:
                found[split] = CocoFile(fitting[0], _split_folders(root, fitting[0]))
    missing = [split for split in wanted if split not in found]
    if missing:
        raise DataError(f"{root}: no annotations of {' and '.join(missing)}; found those of {', '.join(found)}")
    return found


def _beside_images(root: Path, findings: Findings) -> dict[str, CocoFile]:
    found: dict[str, CocoFile] = {}
    splits = name_splits(subfolders(root), root, Findings())
    for split, name in splits.items():
        files = sorted((root / name).glob("*.coco.json")) or sorted((root / name).glob("*.json"))
        if len(files) == 1:
            found[split] = CocoFile(files[0], [root / name, root / name / "images"])
    if found:
        name_splits([splits[split] for split in found], root, findings)
    return found


def _stands_for(stem: str, split: str) -> bool:
    """Whether a file's name has a split in it: instances_train2017, val, annotations-valid."""
    words = re.split(r"[^a-z]+", stem.lower())
    return any(name in words for name in SPLIT_NAMES[split])


def _folders(root: Path, name: str) -> list[Path]:
    candidates = [root / name, root / "images" / name, root / "images", root]
    return [folder for folder in candidates if folder.is_dir()]


def _split_folders(root: Path, file: Path) -> list[Path]:
    """Folders of a split's images: of the file's own name (instances_ left out), or of the split's."""
    name = file.stem.removeprefix("instances_")
    folders = [root / name, root / "images" / name]
    for split in SPLITS:
        if _stands_for(file.stem, split):
            folders += [base / other for base in (root, root / "images") for other in SPLIT_NAMES[split]]
    found = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    if not found and (root / "images").is_dir():
        found = [root / "images", root]
    if not found:
        raise DataError(f"{root}: no folder {name}/ or images/{name}/ with the images of {file.name}")
    return found
