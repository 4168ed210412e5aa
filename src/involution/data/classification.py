"""Images with one label each, from every source that `open_dataset` knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from involution.data.arrays import cifar, digits_splits
from involution.data.errors import DataError, nearest
from involution.data.folders import FileDataset, class_folders, read_folder
from involution.data.shards import ShardDataset, expand_shards
from involution.data.splits import stratified_split

# how much of the training images is set aside where a data set brings no validation images
VAL_SHARE = 0.1
_FOLDER_SHARE = 0.2


@dataclass(frozen=True)
class ClassificationData:
    """A data set in its three parts, each yielding (PIL image or uint8 tensor [C, H, W], label).

    Attributes:
        spec: what it was opened by.
        classes: class names; a label is a place in this list.
        train: training images.
        val: images that choose the checkpoint.
        test: images used once, for the figure reported; None where the source has none with labels.
    """

    spec: str
    classes: list[str]
    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any] | None

    def split(self, name: str) -> Dataset[Any]:
        """One part by its name: train, val or test."""
        if name not in ("train", "val", "test"):
            raise DataError(f"no split named {name!r}; wanted train, val or test")
        found: Dataset[Any] | None = getattr(self, name)
        if found is None:
            raise DataError(f"{self.spec} has no {name} split; use val")
        return found


def open_dataset(spec: str, *, split_seed: int = 0, classes: str | None = None) -> ClassificationData:
    """Open a data set.

    Args:
        spec: `digits`, `imagefolder:PATH` (train/, val/ and perhaps test/, or class folders that are split
            60 / 20 / 20), `imagenet:PATH` (train/ and val/ of class folders), `cifar10:PATH` or
            `cifar100:PATH` (the binary version; a tenth of the training images becomes val),
            `webdataset:SHARDS` (a folder or brace pattern of train*, val* and perhaps test* tar files; class
            names in classes.txt or classes.json beside).
        split_seed: draws the splits that the data set does not bring along.
        classes: file with the class names, one a line or a JSON list, in place of the data set's own.

    Returns:
        The data set.

    Raises:
        DataError: for an unknown source, missing files or broken images.
    """
    kind, _, path = spec.partition(":")
    if kind not in _OPENERS:
        raise DataError(f"no data set named {kind!r} (there are {', '.join(_OPENERS)}){nearest(kind, _OPENERS)}")
    if bool(path) == (kind == "digits"):
        raise DataError("digits takes no path" if path else f"{kind} needs a path: {kind}:PATH")
    names = _read_classes(Path(classes)) if classes else None
    opened = _OPENERS[kind](spec, path, split_seed, names)
    if names is None or kind == "webdataset":
        return opened
    if len(names) != len(opened.classes):
        raise DataError(f"{classes} names {len(names)} classes, but {spec} has {len(opened.classes)}")
    return ClassificationData(spec, names, opened.train, opened.val, opened.test)


def _digits(spec: str, path: str, seed: int, names: Sequence[str] | None) -> ClassificationData:
    return ClassificationData(spec, [str(i) for i in range(10)], *digits_splits(seed))


def _cifar(spec: str, path: str, seed: int, names: Sequence[str] | None) -> ClassificationData:
    everything, test, classes = cifar(spec.partition(":")[0], path)
    train, val = stratified_split(everything.labels.tolist(), VAL_SHARE, seed)
    return ClassificationData(spec, classes, everything.subset(train), everything.subset(val), test)


def _imagefolder(spec: str, path: str, seed: int, names: Sequence[str] | None) -> ClassificationData:
    root = Path(path)
    if (root / "train").is_dir():
        return _split_folders(spec, root)
    classes = class_folders(root)
    everything = read_folder(root, classes)
    everything.check()
    rest, test = stratified_split(everything.labels, _FOLDER_SHARE, seed)
    keep = everything.subset(rest.tolist())
    train, val = stratified_split(keep.labels, _FOLDER_SHARE / (1 - _FOLDER_SHARE), seed)
    parts = (keep.subset(train.tolist()), keep.subset(val.tolist()), everything.subset(test.tolist()))
    return ClassificationData(spec, classes, *parts)


def _split_folders(spec: str, root: Path) -> ClassificationData:
    if not (root / "val").is_dir():
        raise DataError(f"{root} has train/ but no val/; wanted both, each with one folder per class")
    classes = class_folders(root / "train")
    parts: dict[str, FileDataset] = {}
    for split in ("train", "val", "test"):
        if (root / split).is_dir():
            parts[split] = read_folder(root / split, classes)
            parts[split].check()
    return ClassificationData(spec, classes, parts["train"], parts["val"], parts.get("test"))


def _imagenet(spec: str, path: str, seed: int, names: Sequence[str] | None) -> ClassificationData:
    root = Path(path)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise DataError(
            f"imagenet in {root}: wanted train/ and val/, each with one folder per class (n01440764, ...), "
            "as torchvision lays it out"
        )
    opened = _split_folders(spec, root)
    # ImageNet's test images bear no labels: its figures are those of val
    return ClassificationData(spec, _imagenet_names(root, opened.classes), opened.train, opened.val, None)


def _imagenet_names(root: Path, wnids: list[str]) -> list[str]:
    """Readable names from torchvision's meta.bin where it is there, else the folder names."""
    meta = root / "meta.bin"
    if not meta.is_file():
        return wnids
    try:
        to_names: Any = torch.load(meta, weights_only=True)[0]
        return [", ".join(to_names[wnid][:1]) for wnid in wnids]
    except Exception as error:
        # whatever the cause, a pickle that would run code or a missing class: it is not that file
        raise DataError(f"{meta}: not torchvision's class list; remove it ({type(error).__name__})") from error


def _webdataset(spec: str, path: str, seed: int, names: Sequence[str] | None) -> ClassificationData:
    splits = expand_shards(path)
    folder = splits["train"][0].parent
    beside = [folder / name for name in ("classes.txt", "classes.json") if (folder / name).is_file()]
    if names is None and not beside:
        raise DataError(f"{spec}: no class names; put classes.txt (one a line) beside the shards or give a file")
    classes = list(names or _read_classes(beside[0]))
    parts = {split: ShardDataset(files, len(classes)) for split, files in splits.items() if files}
    train: Dataset[Any] = parts["train"]
    if "val" in parts:
        return ClassificationData(spec, classes, train, parts["val"], parts.get("test"))
    keep, val = stratified_split(parts["train"].labels, VAL_SHARE, seed)
    chosen = (Subset(train, keep.tolist()), Subset(train, val.tolist()))
    return ClassificationData(spec, classes, *chosen, parts.get("test"))


def _read_classes(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: can't read class names ({error})") from error
    names = [name.strip() for name in found if isinstance(name, str) and name.strip()]
    if len(names) < 2 or len(set(names)) != len(names):
        raise DataError(f"{file}: wanted at least two different class names, one a line or as a JSON list")
    return names


_OPENERS: dict[str, Callable[[str, str, int, Sequence[str] | None], ClassificationData]] = {
    "digits": _digits,
    "imagefolder": _imagefolder,
    "imagenet": _imagenet,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "webdataset": _webdataset,
}
