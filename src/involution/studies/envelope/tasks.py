"""The tasks of the study, drawn from scikit-learn's digits: none so easy that all networks look alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from involution.studies.moved_digits import SIDE, SPLITS, draw

MOVED, CLUTTER, FEW = "moved digits", "digits in clutter", "few images"

# pieces of other digits in an image with clutter, and pixels of a side of each
_PIECES, _PIECE = 2, 5


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        images: How many are to train on.
        epochs: How often each of them is seen.
        clutter: Whether pieces of other digits lie around the digit.
    """

    images: int
    epochs: int
    clutter: bool = False


TASKS = {
    MOVED: Task(SPLITS["train"], 12),
    CLUTTER: Task(SPLITS["train"], 12, clutter=True),
    FEW: Task(100, 30),
}


@dataclass(frozen=True)
class Images:
    """Images `[N, 1, S, S]`, ink in 0..1 brought to mean 0 and standard deviation 1, and their digits `[N]`."""

    pixels: Tensor
    digits: Tensor


@cache
def images(name: str) -> tuple[Images, Images]:
    """Return what a task trains on and what measures it: always the same images."""
    task = TASKS[name]
    drawn = draw()
    pixels = drawn.pixels
    if task.clutter:
        pixels = np.maximum(pixels, _pieces(pixels, drawn.splits["train"]))
    ink = torch.from_numpy(pixels).float()[:, None] / 255
    digits = torch.from_numpy(drawn.digits)
    train = drawn.splits["train"]
    ink = (ink - ink[train].mean()) / ink[train].std()
    chosen, test = _balanced(drawn.digits, train, task.images), drawn.splits["test"]
    return Images(ink[chosen], digits[chosen]), Images(ink[test], digits[test])


def _pieces(pixels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Pieces of digits that are trained on, in random places of as many images as there are."""
    rng = np.random.default_rng(0)
    found = np.zeros_like(pixels)
    for image in found:
        for source in rng.choice(sources, _PIECES):
            # where there is ink, or most pieces would be empty
            rows, columns = (np.flatnonzero(pixels[source].any(axis)) for axis in (1, 0))
            y, x = (rng.choice(places[: 1 - _PIECE]) for places in (rows, columns))
            top, left = rng.integers(SIDE - _PIECE + 1, size=2)
            place = image[top : top + _PIECE, left : left + _PIECE]
            np.maximum(place, pixels[source, y : y + _PIECE, x : x + _PIECE], out=place)
    return found


def _balanced(digits: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    """As many of the images of each digit as of any other, in all at most `number`; all of them if that is all."""
    if number == len(chosen):
        return chosen
    each = number // 10
    return np.sort(np.concatenate([chosen[digits[chosen] == digit][:each] for digit in range(10)]))
