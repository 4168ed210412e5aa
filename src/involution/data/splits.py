"""The parts of a data set: folders that bring them along, and cuts by chance where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import SPLITS

if TYPE_CHECKING:
    import numpy as np

# what the splits are called, in any case
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def name_splits(names: Iterable[str], where: object, findings: Findings) -> dict[str, str]:
    """Which of some names stand for splits, such as ``{"train": "Training", "val": "valid"}``.

    Args:
        names: names of folders.
        where: the folder, for messages.
        findings: told what was recognised where it is not the plain name.

    Raises:
        DataError: for two names of one split.
    """
    names = list(names)
    found: dict[str, str] = {}
    for split in SPLITS:
        fitting = [name for name in names if name.lower() in SPLIT_NAMES[split]]
        if len(fitting) > 1:
            raise DataError(f"{where}: {' and '.join(fitting)} both stand for {split}; keep one of them")
        if fitting:
            found[split] = fitting[0]
    strange = [f"{name}/ as {split}" for split, name in found.items() if name != split]
    if strange:
        findings.note(f"{where}: taken {', '.join(strange)}")
    return found


def stratified_split(labels: Sequence[int], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut indices in two so that each class keeps its share in both; the same seed gives the same cut.

    Args:
        labels: class of each sample.
        share: part of the samples that goes into the second piece, 0 to 1.
        seed: draws the samples.

    Returns:
        Sorted indices of the first and of the second piece.

    Raises:
        DataError: if a class has too few samples to be in both pieces.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            np.arange(len(labels)), test_size=share, random_state=seed, stratify=np.asarray(labels)
        )
    except ValueError as error:
        raise DataError(
            f"can't split {len(labels)} images of {len(set(labels))} classes by {share:.0%}: {error}; "
            "give each class more images, or make train/ and val/ folders yourself"
        ) from error
    return np.sort(first), np.sort(second)
