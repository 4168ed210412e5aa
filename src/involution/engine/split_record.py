"""Which images a network was trained, chosen and tested on: kept in its checkpoints, and compared with the data now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from involution.data.arrays import ArrayDataset
from involution.data.records import DataSet

# in a checkpoint: name of a split -> [N] int64, a number for each image
KEY = "split"


def record(data: DataSet[Any]) -> dict[str, Tensor]:
    """A number for each image of each split, sorted: from its name within the data set, or from its pixels where it has
    none.

    Splits whose images can't be told apart are left out.
    """
    root = os.path.abspath(os.path.expanduser(data.spec.partition(":")[2] or data.spec))
    found = {name: _numbers(part, root) for name, part in data.parts.items()}
    return {name: torch.tensor(sorted(numbers), dtype=torch.int64) for name, numbers in found.items() if numbers}


def _numbers(part: Any, root: str) -> list[int]:
    if isinstance(part, Subset):
        inner = _numbers(part.dataset, root)
        return [inner[index] for index in part.indices] if inner else []
    if isinstance(part, ArrayDataset):
        return [
            _number(image.numpy().tobytes() + bytes([label % 256]))
            for image, label in map(part.__getitem__, range(len(part)))
        ]
    if not hasattr(part, "name_of"):
        return []
    names = (os.path.abspath(part.name_of(index)) for index in range(len(part)))
    # a data set may have been moved
    return [_number(os.fsencode(name.removeprefix(root).replace(os.sep, "/"))) for name in names]


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


def recorded(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The record in a checkpoint; empty in one of 0.1.0, and where it is none."""
    found = checkpoint.get(KEY)
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): value
        for name, value in found.items()
        if isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    }


def differences(before: Mapping[str, Tensor], now: Mapping[str, Tensor], splits: Iterable[str]) -> list[str]:
    """What changed in some splits since a training, a line each.

    Args:
        before: the record of the training.
        now: that of the data.
        splits: names of the splits that matter.
    """
    lines = []
    for name in splits:
        if name not in before or name not in now:
            continue
        gone, new = _without(before[name], now[name]), _without(now[name], before[name])
        changes = [f"{_images(len(one))} {what}" for one, what in ((gone, "gone"), (new, "new")) if len(one)]
        if changes:
            lines.append(f"the {name} split changed since the training began: {', '.join(changes)}")
        if name != "train" and "train" in before:
            seen = int(torch.isin(now[name], before["train"]).sum())
            if seen:
                lines.append(f"{seen} of the {_images(len(now[name]))} of the {name} split were trained on")
    return lines


def joined(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The record of a training that went on with other data: who was trained on once stays so."""
    if "train" not in before or "train" not in now:
        return dict(now)
    return {**now, "train": torch.unique(torch.cat([before["train"], now["train"]]))}


def _without(one: Tensor, other: Tensor) -> Tensor:
    return one[~torch.isin(one, other)]


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
