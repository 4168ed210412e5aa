"""Which images a network was trained, chosen and tested on, and their labels: kept in its checkpoints, and compared."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from involution.data.addresses import is_address
from involution.data.arrays import ArrayDataset
from involution.data.box_dataset import BoxDataset
from involution.data.contents import Stored, number_of, pixel_number, stored_numbers
from involution.data.images import CHECK_LIMIT, ImageError
from involution.data.label_maps import LabelMaps
from involution.data.labelled import labels_of
from involution.data.parts import arrays_of, image_of, short_name, stored_of
from involution.data.records import DataSet
from involution.data.text import nfc

# in a checkpoint: name of a split -> [N] int64, a number for each image
KEY = "split"
# and -> numbers of what its images hold: the bytes that are stored, and the pixels
CONTENTS = "split_contents"
# and -> a number for each image and what its labels say
LABELS = "split_labels"
# more images than this are not read beforehand, and of more bytes than this only these are compared, not the pixels
_MOST_BYTES = 200_000_000


def record(data: DataSet[Any]) -> dict[str, Tensor]:
    """A number for each image of each split, sorted: from its name within the data set, or from its pixels where it has
    none.

    Splits whose images can't be told apart are left out.
    """
    root = _root(data)
    found = {name: _numbers(part, root) for name, part in data.parts.items()}
    return {name: torch.tensor(sorted(numbers), dtype=torch.int64) for name, numbers in found.items() if numbers}


def contents(data: DataSet[Any]) -> dict[str, Tensor]:
    """Numbers that stand for the contents of the images of each split, by which a copy of another name is known."""
    found = {name: {number for row in _contents(part) for number in row} for name, part in data.parts.items()}
    return {name: torch.tensor(sorted(numbers), dtype=torch.int64) for name, numbers in found.items() if numbers}


def labels(data: DataSet[Any]) -> dict[str, Tensor]:
    """A number for each image of each split with its labels, sorted; of very many, and of those without names, none."""
    root = _root(data)
    found = {name: _labels(part, root, data.classes) for name, part in data.parts.items()}
    return {name: torch.tensor(sorted(numbers), dtype=torch.int64) for name, numbers in found.items() if numbers}


def _labels(part: Any, root: str, classes: Sequence[str]) -> list[int]:
    if len(part) > CHECK_LIMIT:
        return []
    names = _numbers(part, root)
    said: Sequence[object] = []
    if isinstance(part, BoxDataset):
        said = [
            sorted(repr((classes[box.label], box.xywh, box.crowd, box.mask)) for box in scene.boxes)
            for scene in part.record.scenes
        ]
    elif isinstance(part, LabelMaps):
        said = stored_numbers([Stored(file) for _, file in part.pairs])
    elif hasattr(part, "labels") or hasattr(part, "indices"):
        said = [classes[label] for label in labels_of(part)]
    return [number_of(repr(pair).encode()) for pair in zip(names, said, strict=True)] if names and said else []


def _contents(part: Any) -> list[list[int]]:
    """Of each image the numbers of its bytes and of its pixels; no pixels of many, and nothing of very many."""
    places = stored_of(part)
    if len(places) > CHECK_LIMIT:
        return []
    found = [[] if number is None else [number] for number in stored_numbers(places)]
    if not places and not arrays_of(part):
        return []
    if sum(place.length for place in places) > _MOST_BYTES:
        return found

    def pixels(index: int) -> list[int]:
        try:
            return [pixel_number(image_of(part, index))]
        except ImageError:
            # told where it is needed
            return []

    with ThreadPoolExecutor(8) as pool:
        found_pixels = list(pool.map(pixels, range(len(part))))
    return [[*stored, *more] for stored, more in zip(found or [[]] * len(part), found_pixels, strict=True)]


def _numbers(part: Any, root: str) -> list[int]:
    if isinstance(part, Subset):
        inner = _numbers(part.dataset, root)
        return [inner[index] for index in part.indices] if inner else []
    if isinstance(part, ArrayDataset):
        return [
            number_of(image.numpy().tobytes() + bytes([label % 256]))
            for image, label in map(part.__getitem__, range(len(part)))
        ]
    if not hasattr(part, "name_of"):
        return []
    names = (_absolute(part.name_of(index)) for index in range(len(part)))
    # a data set may have been moved, also to a system that spells accents in another way
    return [number_of(os.fsencode(nfc(name.removeprefix(root).replace(os.sep, "/")))) for name in names]


def _root(data: DataSet[Any]) -> str:
    return _absolute(os.path.expanduser(data.spec.partition(":")[2] or data.spec))


def _absolute(name: str) -> str:
    return name if is_address(name) else os.path.abspath(name)


def recorded(checkpoint: Mapping[str, Any], key: str = KEY) -> dict[str, Tensor]:
    """The record in a checkpoint; empty in one of 0.1.0, and where it is none."""
    found = checkpoint.get(key)
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
        found: list[tuple[Tensor, str]] = []
        for other in sorted((before.keys() & now.keys()) - {name}):
            sent = gone[torch.isin(gone, _without(now[other], before[other]))]
            came = new[torch.isin(new, _without(before[other], now[other]))]
            gone, new = _without(gone, sent), _without(new, came)
            found += [(sent, f"moved to {other}"), (came, f"moved here from {other}")]
        found = [(gone, "gone"), (new, "new"), *found]
        changes = [f"{_images(len(one))} {what}" for one, what in found if len(one)]
        if changes:
            lines.append(f"the {name} split changed since the training began: {', '.join(changes)}")
    return lines


def seen_before(checkpoint: Mapping[str, Any], data: DataSet[Any], split: str, same: bool) -> list[str]:
    """Say which images of a split were trained on, by their names or by what they hold, and which changed since.

    Args:
        checkpoint: with the records of the training.
        data: the data set now.
        split: the split that is measured.
        same: whether it is the data set of the training, in which names mean the same images.

    Returns:
        A line for those that were trained on, and of those of the training's names one for those that hold something
        else, and one for those with other labels.
    """
    others = _relabelled(checkpoint, data, split) if same else []
    part, names, held = data.parts.get(split), recorded(checkpoint), recorded(checkpoint, CONTENTS)
    learnt = (
        {}
        if same and split == "train"
        else {key: found.get("train") for key, found in ((KEY, names), (CONTENTS, held))}
    )
    then = held.get(split) if same else None
    if part is None or not (learnt or then is not None):
        return others
    numbers = _numbers(part, _root(data)) if same else []
    rows = _contents(part) if then is not None or learnt.get(CONTENTS) is not None else []
    seen = _known(learnt.get(KEY), [[number] for number in numbers]) | _known(learnt.get(CONTENTS), rows)
    where = "" if data.findings.whole else f" of the {split} split"
    lines = [f"{_some(part, seen)}{where} were trained on: {_first(part, seen)}"] if seen else []
    if then is not None and len(rows) == len(numbers):
        told = {index for index, row in enumerate(rows) if row} & _known(
            names.get(split), [[number] for number in numbers]
        )
        changed = told - _known(then, rows)
        if changed:
            lines.append(
                f"{_some(part, changed)}{where} hold something else than in the training: {_first(part, changed)}"
            )
    return lines + others


def is_whole(checkpoint: Mapping[str, Any], data: DataSet[Any], split: str) -> bool:
    """Whether a split that was taken from data without splits is all that a training had, by what its images hold."""
    known = {number for found in recorded(checkpoint, CONTENTS).values() for number in found.tolist()}
    count = sum(len(found) for found in recorded(checkpoint).values())
    if not known or len(data.parts[split]) != count:
        return False
    return all(not known.isdisjoint(row) for row in _contents(data.parts[split]))


def _relabelled(checkpoint: Mapping[str, Any], data: DataSet[Any], split: str) -> list[str]:
    """Say which images of a split of the training's data have other labels now."""
    part, then = data.parts.get(split), recorded(checkpoint, LABELS).get(split)
    if part is None or then is None:
        return []
    root = _root(data)
    rows = [[number] for number in _labels(part, root, data.classes)]
    named = [[number] for number in _numbers(part, root)] if rows else []
    changed = _known(recorded(checkpoint).get(split), named) - _known(then, rows)
    said = f"of the {split} split have other labels than in the training"
    return [f"{_some(part, changed)} {said}: {_first(part, changed)}"] if changed else []


def _known(record: Tensor | None, rows: Sequence[Sequence[int]]) -> set[int]:
    """Which images have a number that is in a record."""
    known = set() if record is None else set(record.tolist())
    return {index for index, numbers in enumerate(rows) if not known.isdisjoint(numbers)}


def _some(part: Any, chosen: Collection[int]) -> str:
    return f"{len(chosen)} of the {_images(len(part))}"


def _first(part: Any, chosen: Iterable[int]) -> str:
    shown = [short_name(part, index) for index in sorted(chosen)[:4]]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def joined(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The record of a training that went on with other data: who was trained on once stays so."""
    if "train" not in before or "train" not in now:
        return dict(now)
    return {**now, "train": torch.unique(torch.cat([before["train"], now["train"]]))}


def _without(one: Tensor, other: Tensor) -> Tensor:
    return one[~torch.isin(one, other)]


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
