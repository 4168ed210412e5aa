"""Images in folders, one folder a class, with or without folders of splits above or below them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings, listed, some
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import are_images_and_labels, cut_by, name_splits, no_split, val_of_train, words_of
from involution.data.text import nfc
from involution.data.walk import is_rubbish, subfolders

# of images that come without splits
_SHARE = 0.2
# bytes of a table beside the folders that are looked at
_TABLE = 1 << 16
# folders of each split's classes, by the name of the split's folder
Layout = dict[str, tuple[str, dict[str, Path]]]


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.contents import Stored
    from involution.data.folders import by_class, class_folders, read_folders
    from involution.data.labelled import classification_data
    from involution.data.splits import cut

    root, findings = Path(path), Findings()
    layout = _layout(root, findings) if root.is_dir() else {}
    if layout:
        return _open_splits(spec, root, layout, findings, options)
    classes = subfolders(root) if options.only and root.is_dir() else class_folders(root)
    folders = by_class(root / name for name in classes)
    classes = list(folders)
    _tell_deeper(folders, findings)
    everything = read_folders(root, folders, classes, findings, options, "")
    _tell_pieces(root, classes, everything.files, findings)
    if options.only:
        findings.take_whole(root)
        return classification_data(spec, classes, {options.only: everything}, findings, options, root)
    findings.settle(spec, options.on_problem)
    names = [file.relative_to(root).as_posix() for file in everything.files]
    stored = list(map(Stored, everything.files))
    pieces = cut(names, (_SHARE, _SHARE), options, findings, everything.labels, stored, classes=classes)
    parts = {split: everything.subset(piece) for split, piece in zip(SPLITS, pieces, strict=True)}
    how = cut_by(options.split_by, options.split_seed)
    findings.note(f"{root}: no train/ and val/; its images are split 60 / 20 / 20 {how}")
    return classification_data(spec, classes, parts, findings, options, root)


def _tell_pieces(root: Path, classes: Sequence[str], files: Sequence[Path], findings: Findings) -> None:
    """Warn of folders that are one name and a number, beside a table that names their images: parts, not classes."""
    parts = [re.fullmatch(r"(.*[^\W\d].*?)\d+", name) for name in classes]
    if len({part and part[1] for part in parts}) != 1 or None in parts:
        return
    stems = {file.stem for file in files}
    for table in sorted(file for file in root.iterdir() if file.suffix.lower() in (".csv", ".tsv") and file.is_file()):
        with table.open("rb") as file:
            rows = file.read(_TABLE).decode("utf-8", "replace").splitlines()[1:]
        named = [row for row in rows if any(Path(cell.strip(' "')).stem in stems for cell in re.split(r"[,;\t]", row))]
        if len(named) > len(rows) / 2:
            findings.note(
                f"warning: {listed([f'{name}/' for name in classes])} look like parts of one set and are taken for "
                f"classes; {table.name} names their images: if it has the labels, sort them into a folder for each"
            )


def _tell_deeper(folders: dict[str, Path], findings: Findings) -> None:
    """Say where class folders have folders of their own: perhaps these were meant as the classes."""
    inner = {name: subfolders(folder) for name, folder in folders.items()}
    shared = sorted(set.intersection(*map(set, inner.values()))) if inner else []
    if shared:
        findings.note(
            f"the folders {', '.join(list(inner)[:3])} are the classes; their own folders {', '.join(shared[:3])} are "
            "not told apart"
        )
    elif any(inner.values()):
        below = [f"{name}/{folder}" for name, folders_of in inner.items() for folder in folders_of]
        findings.note(f"folders inside those of the classes, not told apart from these: {some(below)}")


def _layout(root: Path, findings: Findings) -> Layout:
    """The splits of a folder; empty where its folders are classes, such as train beside car and ship."""
    from involution.data.folders import by_class

    below = {name: subfolders(root / name) for name in subfolders(root)}
    splits = name_splits([name for name, inner in below.items() if inner], root, findings)
    if splits:
        return {split: (name, by_class(root / name / inner for inner in below[name])) for split, name in splits.items()}
    return _inside_classes(root, below, findings)


def _inside_classes(root: Path, below: dict[str, list[str]], findings: Findings) -> Layout:
    """The splits where each class has them in its own folder: cat/train/, cat/val/, dog/train/, dog/val/."""
    inner: dict[str, dict[str, str]] = {}
    for name, names in below.items():
        try:
            inner[name] = name_splits(names, root / name, Findings())
        except DataError:
            # test1/ and test2/ in a class are no splits of it
            inner[name] = {}
    having = [name for name, splits in inner.items() if splits]
    if not having or not any("train" in splits or len(splits) > 1 for splits in inner.values()):
        return {}
    lacking = [name for name in below if name not in having]
    if lacking:
        has = ", ".join(f"{name}/" for name in inner[having[0]].values())
        raise DataError(
            f"{root}: {having[0]}/ has {has}, but {lacking[0]}/ has no folders of splits; wanted them in each class "
            "folder, or above the class folders"
        )
    found: Layout = {}
    for split in SPLITS:
        folders = {nfc(name): root / name / splits[split] for name, splits in inner.items() if split in splits}
        if folders:
            found[split] = ("", folders)
    names = sorted({name for splits in inner.values() for name in splits.values()})
    findings.note(f"{root}: splits taken from {', '.join(f'{name}/' for name in names)} inside the class folders")
    return found


def _open_splits(spec: str, root: Path, layout: Layout, findings: Findings, options: Options) -> DataSet[Any]:
    from involution.data.contents import Stored
    from involution.data.folders import class_folders, read_folders
    from involution.data.labelled import classification_data
    from involution.data.splits import cut

    if options.only and options.only not in layout:
        raise no_split(root, options.only, layout)
    if options.only:
        layout = {options.only: layout[options.only]}
    elif "train" not in layout or ("val" not in layout and _names_val(root)):
        has = ", ".join(f"{name or split}/" for split, (name, _) in layout.items())
        lacking = " and no ".join(f"{split}/" for split in ("train", "val") if split not in layout)
        raise DataError(f"{root} has {has} but no {lacking}; wanted train/ and val/, each with one folder per class")
    name, folders = next(iter(layout.values()))
    classes = list(map(nfc, class_folders(root / name))) if not options.only else sorted(folders)
    parts: dict[str, Any] = {}
    for split, (where, found) in layout.items():
        # what is not in val or test can't be measured there, but was learnt
        _tell_deeper(found, findings)
        rules = replace(options, allow_empty=options.allow_empty or split != "train")
        parts[split] = read_folders(root, found, classes, findings, rules, where, split)
    if not options.only and "val" not in parts:
        findings.settle(spec, options.on_problem)
        names = [file.relative_to(root).as_posix() for file in parts["train"].files]
        stored, labels = list(map(Stored, parts["train"].files)), parts["train"].labels
        train, val = cut(names, (_SHARE,), options, findings, labels, stored, classes=classes)
        whole = parts["train"]
        test = {"test": parts["test"]} if "test" in parts else {}
        parts = {"train": whole.subset(train), "val": whole.subset(val), **test}
        findings.note(val_of_train(root, _SHARE, options))
    return classification_data(spec, classes, parts, findings, options, root)


def _names_val(root: Path) -> bool:
    """Whether a folder is called as that of val, which then has no class folders."""
    return any(words_of(name).split == "val" for name in subfolders(root))


def open_split_folders(
    spec: str, root: Path, options: Options, splits: tuple[str, ...], findings: Findings
) -> DataSet[Any]:
    """Open those of train/, val/ and test/ that are wanted, each with one folder per class."""
    layout = {split: found for split, found in _layout(root, findings).items() if split in splits}
    return _open_splits(spec, root, layout, findings, options)


def _recognises(folder: Path) -> bool:
    try:
        layout = _layout(folder, Findings())
    except DataError:
        return False
    below = [inner for _, folders in layout.values() for inner in folders.values()]
    names = [inner.name for inner in below]
    if names and all(name.startswith(("n0", "n1")) and name[1:].isdigit() for name in names):
        # ImageNet's
        return False
    below = below or [folder / name for name in subfolders(folder)]
    if are_images_and_labels({*names, *subfolders(folder)}):
        return False
    return len(below) > 1 and all(_begins_with_image(inner) for inner in below[:20])


def _begins_with_image(folder: Path) -> bool:
    from involution.data.images import EXTENSIONS

    first = next((file for file in folder.iterdir() if not is_rubbish(file.name)), None)
    return first is not None and first.suffix.lower() in EXTENSIONS


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
