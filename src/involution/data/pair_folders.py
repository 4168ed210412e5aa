"""Where the images of each split and their labels lie, in the usual orders of folders and spellings of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import SPLITS
from involution.data.splits import LABEL_WORDS, ORIGINALS, words_of
from involution.data.walk import subfolders


class PairFolders(NamedTuple):
    """The folder of some images, and that of their labels; None where the labels are not in one of their own."""

    images: Path
    labels: Path | None


class _Folder(NamedTuple):
    path: Path
    split: str | None
    images: str
    labels: str
    plain: bool
    depth: int


def find_pairs(
    root: Path, findings: Findings, holds_labels: Callable[[Path], bool] | None = None
) -> dict[str, PairFolders]:
    """The folders of each split by its name, or of ``all`` where no folder stands for a split.

    Names are read as words, in any case: images/train and labels/train, Train/Images and Train/Masks, train_images and
    train_labels, train2017 and annotations/Training belong together.

    Args:
        root: the data set's folder.
        findings: told what was recognised where the names are not the plain ones.
        holds_labels: whether a folder has labels of the wanted kind; the others count where none has.

    Raises:
        DataError: where two folders could be the one of a split.
    """
    folders = list(_known(root))
    labelled = [item for item in folders if item.labels and not item.images]
    if holds_labels is not None and (good := [item for item in labelled if holds_labels(item.path)]):
        folders = [item for item in folders if item not in labelled or item in good]
    found: dict[str, PairFolders] = {}
    for split in (*SPLITS, None):
        fitting = [item for item in folders if item.split == split]
        images = _first(root, [item for item in fitting if not item.labels], split)
        labels = _first(root, [item for item in fitting if item.labels and not item.images], split)
        if images is not None and (split is not None or not found):
            found[split or "all"] = PairFolders(images.path, None if labels is None else labels.path)
    strange = [
        f"{path.relative_to(root)}/ as {split}"
        for split, pair in found.items()
        for path in pair
        if split != "all" and path is not None and split not in path.relative_to(root).parts
    ]
    if strange:
        findings.note(f"{root}: taken {', '.join(strange)}")
    flat = _first(root, [item for item in folders if item.labels and item.split is None], None)
    if flat is not None and all(pair.labels is None for pair in found.values()):
        # one folder has the labels of all splits
        found = {split: pair._replace(labels=flat.path) for split, pair in found.items()}
    return found


def _known(root: Path) -> Iterator[_Folder]:
    """The folders down to the second level whose names are all known words."""
    for first in subfolders(root):
        above = words_of(first)
        if above.rest:
            continue
        if above.split or above.images or above.labels:
            yield _Folder(root / first, above.split, above.images, above.labels, above.plain, 1)
        for second in subfolders(root / first):
            below = words_of(second)
            splits = {words.split for words in (above, below)} - {None}
            if below.rest or len(splits) > 1 or (above.labels and below.images) or (above.images and below.labels):
                continue
            split = next(iter(splits), None)
            images, labels = above.images or below.images, above.labels or below.labels
            plain = above.plain or below.plain
            if split is not None:
                yield _Folder(root / first / second, split, images, labels, plain, 2)


def _first(root: Path, folders: list[_Folder], split: str | None) -> _Folder | None:
    """The folder to take: one with images or labels in its name before a bare train/, the plain name first."""

    def rank(item: _Folder) -> tuple[bool, bool, bool, int, bool]:
        place = LABEL_WORDS.index(item.labels) if item.labels else 0
        original = item.images in ORIGINALS
        return not (item.images or item.labels), not item.plain, original, place, item.depth == 1

    ordered = sorted(folders, key=rank)
    if len(ordered) > 1 and rank(ordered[0]) == rank(ordered[1]):
        names = " and ".join(f"{item.path.relative_to(root)}/" for item in ordered[:2])
        raise DataError(f"{root}: {names} both stand for {split or 'the images'}; keep one of them")
    return ordered[0] if ordered else None
