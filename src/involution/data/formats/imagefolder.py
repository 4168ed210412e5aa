"""Images in folders, one folder a class, with or without folders of splits above them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import name_splits

# of images that come without splits
_SHARE = 0.2


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.folders import class_folders, read_folder, subfolders
    from involution.data.labelled import classification_data
    from involution.data.splits import stratified_split

    root, findings = Path(path), Findings()
    if root.is_dir() and _splits(root, findings):
        return open_split_folders(spec, root, options)
    classes = subfolders(root) if options.only and root.is_dir() else class_folders(root)
    everything = read_folder(root, classes, findings, options.reading, "", options.allow_empty)
    if options.only:
        return classification_data(spec, classes, {options.only: everything}, findings, options)
    findings.settle(spec, options.on_problem)
    rest, test = stratified_split(everything.labels, _SHARE, options.split_seed)
    keep = everything.subset(rest.tolist())
    train, val = stratified_split(keep.labels, _SHARE / (1 - _SHARE), options.split_seed)
    parts = {
        "train": keep.subset(train.tolist()),
        "val": keep.subset(val.tolist()),
        "test": everything.subset(test.tolist()),
    }
    findings.note(f"{root}: no train/ and val/; its images are split 60 / 20 / 20 by split_seed {options.split_seed}")
    return classification_data(spec, classes, parts, findings, options)


def _splits(root: Path, findings: Findings) -> dict[str, str]:
    """Folders of splits; one without folders in it is a class, such as train beside car and ship."""
    from involution.data.folders import subfolders

    return name_splits([name for name in subfolders(root) if subfolders(root / name)], root, findings)


def open_split_folders(spec: str, root: Path, options: Options) -> DataSet[Any]:
    """Open train/, val/ and perhaps test/, each with one folder per class."""
    from involution.data.folders import class_folders, ignore_loose, read_folder, subfolders
    from involution.data.labelled import classification_data

    findings = Findings()
    splits = _splits(root, findings)
    has = ", ".join(f"{name}/" for name in splits.values())
    if options.only:
        if options.only not in splits:
            raise DataError(f"{root} has no {options.only}/; it has {has}")
        splits = {options.only: splits[options.only]}
    elif not {"train", "val"} <= set(splits):
        lacking = " and no ".join(f"{split}/" for split in ("train", "val") if split not in splits)
        raise DataError(f"{root} has {has} but no {lacking}; wanted train/ and val/, each with one folder per class")
    others = sorted(set(subfolders(root)) - set(splits.values()))
    if others and not options.only:
        findings.ignore("folders next to the splits", *[f"{name}/" for name in others])
    ignore_loose(root, findings, "")
    first = next(iter(splits.values()))
    classes = subfolders(root / first) if options.only else class_folders(root / first)
    parts: dict[str, Any] = {}
    for split, name in splits.items():
        # what is not in val or test can't be measured there, but was learnt
        allow_empty = options.allow_empty or split != "train"
        parts[split] = read_folder(root / name, classes, findings, options.reading, name, allow_empty)
    return classification_data(spec, classes, parts, findings, options)


def _recognises(folder: Path) -> bool:
    from involution.data.folders import subfolders
    from involution.data.images import EXTENSIONS

    names = subfolders(folder)
    below = [folder / name for name in names]
    if _splits(folder, Findings()):
        below = [inner for name in below for inner in name.iterdir() if inner.is_dir()]
        if all(inner.name.startswith(("n0", "n1")) and inner.name[1:].isdigit() for inner in below):
            # ImageNet's
            return False
    first = [next(inner.iterdir(), None) for inner in below[:20]]
    return len(below) > 1 and all(file is not None and file.suffix.lower() in EXTENSIONS for file in first)


register(
    Format(
        name="imagefolder",
        task="classify",
        syntax="imagefolder:PATH",
        description="one folder of images per class, in train/, val/ and optionally test/, or split 60 / 20 / 20",
        open=_open,
        recognises=_recognises,
    )
)
