"""Data sets small enough to lie in memory, the embedded digits among them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.splits import stratified_split


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
