"""Data sets small enough to lie in memory: the embedded digits, and CIFAR in its binary format."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.errors import DataError
from involution.data.splits import stratified_split

# (folder, training files, test files, label bytes per record, class name file)
_CIFAR = {
    "cifar10": (
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        ["test_batch.bin"],
        1,
        "batches.meta.txt",
    ),
    "cifar100": ("cifar-100-binary", ["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Images in one array.

    Args:
        images: [N, C, H, W], uint8.
        labels: [N], int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def subset(self, indices: np.ndarray) -> ArrayDataset:
        """The samples of these indices, in their order."""
        chosen = torch.from_numpy(indices)
        return ArrayDataset(self.images[chosen], self.labels[chosen])


@functools.cache
def digits() -> ArrayDataset:
    """The 1,797 handwritten digits that scikit-learn brings along: [1797, 1, 8, 8], 0 to 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    # the source counts 0 to 16
    images = torch.from_numpy((found.images * (255.0 / 16.0)).round().astype(np.uint8))
    return ArrayDataset(images.unsqueeze(1), torch.from_numpy(found.target.astype(np.int64)))


def digits_splits(seed: int) -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    """Training, validation and test digits, 60 / 20 / 20 percent, each class in proportion."""
    everything = digits()
    rest, test = stratified_split(everything.labels.tolist(), 0.2, seed)
    train, val = stratified_split(everything.labels[torch.from_numpy(rest)].tolist(), 0.25, seed)
    return everything.subset(rest[train]), everything.subset(rest[val]), everything.subset(test)


def cifar(kind: str, path: str | Path) -> tuple[ArrayDataset, ArrayDataset, list[str]]:
    """CIFAR's training and test images from its binary files (the Python version is a pickle, and not read).

    Args:
        kind: cifar10 or cifar100.
        path: the folder of the binary files, or the one above it.

    Returns:
        Training images, test images and class names.

    Raises:
        DataError: for missing files, or ones of another size or with labels out of range.
    """
    folder, train_files, test_files, label_bytes, names_file = _CIFAR[kind]
    root = Path(path)
    if (root / folder).is_dir():
        root = root / folder
    missing = [name for name in [*train_files, *test_files, names_file] if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{kind} in {path}: missing {', '.join(missing)}; wanted the binary version, unpacked ({folder}/)"
        )
    names = [line.strip() for line in (root / names_file).read_text(encoding="utf-8").splitlines() if line.strip()]
    train = _records([root / name for name in train_files], label_bytes, len(names))
    return train, _records([root / name for name in test_files], label_bytes, len(names)), names


def _records(files: list[Path], label_bytes: int, num_classes: int) -> ArrayDataset:
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
