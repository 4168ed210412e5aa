"""Where the files of a data set in COCO's format lie, as its publishers and the tools of labelling lay them out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from involution.data.errors import DataError
from involution.data.findings import Findings, listed
from involution.data.paths import need_folder
from involution.data.records import SPLITS
from involution.data.splits import name_splits, no_split, words_of
from involution.data.walk import subfolders


class CocoFile(NamedTuple):
    """An annotation file, and the folders that its images are looked for in."""

    file: Path
    folders: list[Path]


def find_files(root: Path, findings: Findings, wanted: str | None) -> dict[str, CocoFile]:
    """The annotation file of each split, or of ``all`` where one file holds all images.

    - ``annotations/instances_train2017.json``, images in ``train2017/`` or ``images/train2017/`` (COCO, CVAT);
    - ``train/_annotations.coco.json`` beside the images, ``valid/`` and ``test/`` alike (Roboflow);
    - ``annotations/train.json`` or ``train.json``, images in ``train/``, ``images/train/`` or ``images/``;
    - one file alone, ``result.json`` or ``annotations/instances_default.json``, images in ``images/`` (Label Studio).

    Args:
        root: the folder.
        findings: told what was recognised.
        wanted: the split that must be there; None where none must.

    Raises:
        DataError: where a wanted split has no file, or train or val several.
    """
    need_folder(root)
    found = _beside_images(root, findings)
    files: list[Path] = []
    if "all" in found:
        return found
    if not found:
        files = _json_files(_inner(root, "annotations")) or _json_files(root)
        instances = [file for file in files if file.stem.startswith("instances_")]
        files = instances or [file for file in files if is_coco(file)] or files
        if len(files) == 1 and not words_of(files[0].stem).split:
            return {"all": CocoFile(files[0], _folders(root, files[0].stem.removeprefix("instances_")))}
        for split in SPLITS:
            fitting = [file for file in files if words_of(file.stem).split == split]
            if len(fitting) > 1 and (split == wanted or (wanted == "train" and split == "val")):
                names = ", ".join(file.name for file in fitting)
                raise DataError(f"{root}: wanted one annotations/instances_{split}*.json, found {names}")
            try:
                if len(fitting) == 1:
                    found[split] = CocoFile(fitting[0], _split_folders(root, fitting[0], split, findings))
            except DataError as error:
                # test images without labels are often not given away
                if split == wanted or (wanted == "train" and split == "val"):
                    raise
                findings.note(f"{error}; {split} is left out")
    if wanted not in (None, "train", *found):
        raise no_split(root, str(wanted), found)
    folders = [name for base in (root, _inner(root, "images")) if base.is_dir() for name in subfolders(base)]
    missing = [split for split in ("train", "val") if split not in found]
    # a folder of val without annotations is a mistake, none at all is not
    if "train" not in missing and not any(words_of(name).split == "val" for name in folders):
        missing = []
    if wanted == "train" and missing:
        names = ", ".join(file.file.name for file in found.values()) or ", ".join(file.name for file in files) or "none"
        packed = [file.name for folder in ("", "annotations/") for file in root.glob(f"{folder}*.json.*z*")]
        unpack = f"; unpack {listed(sorted(packed))}" if packed else ""
        raise DataError(
            f"{root}: wanted annotations/instances_{missing[0]}*.json, found {names}; images without splits want one "
            f"file, such as annotations/instances_default.json{unpack}"
        )
    return found


def is_coco(file: Path) -> bool:
    """Whether a JSON file begins as one in COCO's format does, whatever the order of its parts."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    parts = (b"images", b"annotations", b"categories", b"licenses", b"info")
    return any(b'"' + name + b'"' in head.replace(b"\0", b"") for name in parts[: 2 if len(head) < 4096 else None])


def _json_files(folder: Path, ending: str = ".json") -> list[Path]:
    """The files with this ending, hidden ones left out."""
    return sorted(file for file in folder.glob(f"*{ending}") if not file.name.startswith("."))


def _inner(root: Path, name: str) -> Path:
    """The folder of a name in any case; the name itself where there is none."""
    return root / next((inner for inner in subfolders(root) if inner.lower() == name), name)


def _beside_images(root: Path, findings: Findings) -> dict[str, CocoFile]:
    found: dict[str, CocoFile] = {}
    splits = name_splits(subfolders(root), root, Findings())
    for split, name in splits.items():
        files = _json_files(root / name, ".coco.json") or _json_files(root / name)
        if len(files) == 1:
            found[split] = CocoFile(files[0], [root / name, root / name / "images"])
    if list(found) == ["train"] and list(splits) == ["train"]:
        # as Roboflow exports a version without a split
        return {"all": found["train"]}
    if found:
        name_splits([splits[split] for split in found], root, findings)
    return found


def _folders(root: Path, name: str) -> list[Path]:
    images = _inner(root, "images")
    return [folder for folder in (root / name, images / name, images, root) if folder.is_dir()]


def _split_folders(root: Path, file: Path, split: str, findings: Findings) -> list[Path]:
    """Folders of a split's images: of the file's own name (instances_ left out), or of the split's."""
    name, images = file.stem.removeprefix("instances_"), _inner(root, "images")
    found = [base / name for base in (root, images) if (base / name).is_dir()]
    for base in (root, images) if not found else ():
        other = name_splits(subfolders(base), base, Findings()).get(split) if base.is_dir() else None
        if other:
            found.append(base / other)
    if found and found[0].name not in (name, split):
        findings.note(f"{file.name}: its images taken from {found[0].relative_to(root)}/")
    if not found and images.is_dir():
        found = [images, root]
    if not found:
        raise DataError(f"{root}: no folder {name}/ or images/{name}/ with the images of {file.name}")
    return found
