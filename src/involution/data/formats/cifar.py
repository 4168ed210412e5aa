"""CIFAR-10 and CIFAR-100 in their binary version (the Python version is a pickle, and not read)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.paths import need_folder
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.text import read_names

if TYPE_CHECKING:
    from involution.data.arrays import ArrayDataset


class _Layout(NamedTuple):
    folder: str
    train: list[str]
    test: list[str]
    label_bytes: int
    names: str


_LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        ["test_batch.bin"],
        1,
        "batches.meta.txt",
    ),
    "cifar100": _Layout("cifar-100-binary", ["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}


def _open(spec: str, path: str, options: Options, kind: str) -> DataSet[Any]:
    from involution.data.labelled import VAL_SHARE, classification_data, tell_missing
    from involution.data.splits import stratified_split

    everything, test, classes = read_cifar(kind, Path(path))
    train, val = stratified_split(everything.labels.tolist(), VAL_SHARE, options.split_seed)
    parts = {"train": everything.subset(train), "val": everything.subset(val), "test": test}
    layout, findings = _LAYOUTS[kind], Findings(drawn_by={"split_seed"})
    for split, part in parts.items():
        tell_missing(part.labels.tolist(), classes, split, spec, findings, options)
    root = _root(layout, Path(path))
    findings.saw(*(root / name for name in (*layout.train, *layout.test, layout.names)))
    return classification_data(spec, classes, parts, findings, options, Path(path))


def _root(layout: _Layout, path: Path) -> Path:
    return path / layout.folder if (path / layout.folder).is_dir() else path


def read_cifar(kind: str, path: Path) -> tuple[ArrayDataset, ArrayDataset, list[str]]:
    """CIFAR's training and test images.

    Args:
        kind: cifar10 or cifar100.
        path: the folder of the binary files, or the one above it.

    Returns:
        Training images, test images and class names.

    Raises:
        DataError: for missing files, or ones of another size or with labels out of range.
    """
    layout = _LAYOUTS[kind]
    need_folder(path)
    root = _root(layout, path)
    missing = [name for name in [*layout.train, *layout.test, layout.names] if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{kind} in {path}: missing {', '.join(missing)}; wanted the binary version, unpacked ({layout.folder}/)"
        )
    names = read_names(root / layout.names)
    train = _records([root / name for name in layout.train], layout.label_bytes, len(names))
    return train, _records([root / name for name in layout.test], layout.label_bytes, len(names)), names


def _records(files: list[Path], label_bytes: int, num_classes: int) -> ArrayDataset:
    import numpy as np
    import torch

    from involution.data.arrays import ArrayDataset

    size = label_bytes + 3 * 32 * 32
    parts = []
    for file in files:
        data = np.fromfile(file, dtype=np.uint8)
        if len(data) == 0 or len(data) % size:
            raise DataError(f"{file}: {len(data):,} bytes are not a whole number of {size}-byte records")
        parts.append(data.reshape(-1, size))
    records = np.concatenate(parts)
    # of two labels the last is the fine one
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= num_classes:
        raise DataError(f"{files[0].parent}: label {labels.max()} found, but there are {num_classes} class names")
    images = torch.from_numpy(records[:, label_bytes:].reshape(-1, 3, 32, 32).copy())
    return ArrayDataset(images, torch.from_numpy(labels))


def _recognises(folder: Path, layout: _Layout) -> bool:
    return (_root(layout, folder) / layout.train[0]).is_file()


for _kind, _layout in _LAYOUTS.items():
    register(
        Format(
            name=_kind,
            task="classify",
            syntax=f"{_kind}:PATH",
            description=f"its binary version, {_layout.folder}/; a tenth of the training images becomes val",
            open=functools.partial(_open, kind=_kind),
            recognises=functools.partial(_recognises, layout=_layout),
        )
    )
