"""ImageNet as torchvision lays it out: train/ and val/ of class folders named by WordNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.formats.imagefolder import open_split_folders
from involution.data.labelled import name_classes, told_apart
from involution.data.paths import need_folder
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    root = Path(path)
    need_folder(root)
    wanted = [options.only] if options.only else ["train", "val"]
    if not all((root / split).is_dir() for split in wanted):
        raise DataError(
            f"imagenet in {root}: wanted train/ and val/, each with one folder per class (n01440764, ...), "
            "as torchvision lays it out"
        )
    # ImageNet's test images bear no labels: its figures are those of val
    findings, file = Findings(), options.classes
    findings.saw(root / "meta.bin", *([file] if file else []))
    opened = open_split_folders(spec, root, replace(options, classes=None), ("train", "val"), findings)
    # every list of its names is in the order of its folders' names
    if file:
        classes = name_classes(opened.classes, Path(file), spec, by_place=True, findings=findings)
    else:
        classes = _names(root, opened.classes)
    return replace(opened, classes=classes)


def _names(root: Path, wnids: list[str]) -> list[str]:
    """Readable names from torchvision's meta.bin where it is there, else the folder names.

    ImageNet has two cranes, a bird and a machine: what two classes share has WordNet's number behind it.
    """
    import torch

    meta = root / "meta.bin"
    if not meta.is_file():
        return wnids
    try:
        to_names: Any = torch.load(meta, weights_only=True)[0]
        first = told_apart([", ".join(names[:1]) for names in to_names.values()], list(to_names))
        named = dict(zip(to_names, first, strict=True))
        return [named[wnid] for wnid in wnids]
    except Exception as error:
        # whatever the cause, a pickle that would run code or a missing class: it is not that file
        raise DataError(f"{meta}: not torchvision's class list; remove it ({type(error).__name__})") from error


def _recognises(folder: Path) -> bool:
    train = folder / "train"
    names = [entry.name for entry in train.iterdir() if entry.is_dir()] if train.is_dir() else []
    return bool(names) and all(name.startswith(("n0", "n1")) and name[1:].isdigit() for name in names)


register(
    Format(
        name="imagenet",
        task="classify",
        syntax="imagenet:PATH",
        description="train/ and val/ with class folders, and optionally meta.bin, as torchvision lays out ImageNet",
        open=_open,
        eval_split="val",
        recognises=_recognises,
    )
)
