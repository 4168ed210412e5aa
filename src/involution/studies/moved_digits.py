"""moved-digits: the embedded task of the ablation studies, hard enough that settings differ.

scikit-learn's 1,797 handwritten digits, each enlarged to 12×12 pixels with its margin, turned by up to 15° either way,
and put anywhere on an image of 16×16. Only 500 are to train on, so that a network does not reach the 99 % at which all
settings look alike; 100 choose the checkpoint and 1,197 measure. They are written to disk as PNG files in class
folders; the same seed gives the same files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from involution.data.splits import stratified_split

NAME = "moved-digits"
SPLITS = {"train": 500, "val": 100, "test": 1197}
SIDE = 16
"""Pixels of a side of an image."""
_DIGIT = 12
_ROTATION = 15.0


@dataclass(frozen=True)
class Drawn:
    """The images.

    Attributes:
        pixels: Ink `[N, S, S]`, 0 to 255.
        digits: What each one shows `[N]`.
        splits: Their numbers in train, val and test.
    """

    pixels: np.ndarray
    digits: np.ndarray
    splits: dict[str, np.ndarray]


def draw(splits: Mapping[str, int] = SPLITS, seed: int = 0) -> Drawn:
    """Draw the images.

    Args:
        splits: Images of train and val; all others are test.
        seed: Draws splits, angles and places.
    """
    import PIL.Image
    from sklearn.datasets import load_digits

    found = load_digits()
    digits = len(found.target)
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-_ROTATION, _ROTATION, digits)
    corners = rng.integers(SIDE - _DIGIT + 1, size=(digits, 2))
    chosen, test = stratified_split(found.target.tolist(), 1 - (splits["train"] + splits["val"]) / digits, seed)
    train, val = stratified_split(found.target[chosen].tolist(), splits["val"] / len(chosen), seed)
    bicubic = PIL.Image.Resampling.BICUBIC
    pixels = np.zeros((digits, SIDE, SIDE), np.uint8)
    for number, (column, row) in enumerate(corners):
        # the source counts 0 to 16; a margin to turn in
        ink = (np.pad(found.images[number], 1) * (255 / 16)).round().astype(np.uint8)
        digit = PIL.Image.fromarray(ink).resize((_DIGIT, _DIGIT), bicubic).rotate(angles[number], bicubic)
        pixels[number, row : row + _DIGIT, column : column + _DIGIT] = np.asarray(digit)
    return Drawn(pixels, found.target, {"train": chosen[train], "val": chosen[val], "test": test})


def make_moved_digits(folder: str | os.PathLike[str], splits: Mapping[str, int] = SPLITS, seed: int = 0) -> Path:
    """Write the images into a folder, unless they are there already.

    The folder appears whole or not at all.

    Args:
        folder: Where they go.
        splits: Images of train and val; all others are test.
        seed: Draws splits, angles and places.

    Returns:
        The folder, as ``imagefolder:`` takes it.

    Raises:
        OSError: If it can't be written.
    """
    import PIL.Image

    target = Path(folder)
    if target.is_dir():
        return target
    drawn = draw(splits, seed)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for split, part in drawn.splits.items():
            for number in part:
                place = temporary / split / str(drawn.digits[number])
                place.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(drawn.pixels[number]).save(place / f"{number:04d}.png")
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
