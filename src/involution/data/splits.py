from collections.abc import Sequence

import numpy as np

from involution.data.errors import DataError


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
