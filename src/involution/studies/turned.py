"""turned-digits: the embedded task of the ablation studies, hard enough that settings differ.

scikit-learn's 1,797 handwritten digits, each enlarged to 16×16 pixels and turned by up to 20° either way. Only 500 are
to train on, so that a network does not reach the 99 % at which all settings look alike; 100 choose the checkpoint and
1,197 measure. They are written to disk as PNG files in class folders; the same seed gives the same files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..data.splits import stratified_split

NAME = "turned-digits"
SPLITS = {"train": 500, "val": 100, "test": 1197}
_SIDE = 16
_ROTATION = 20.0


def make_turned_digits(folder: str | os.PathLike[str], splits: Mapping[str, int] = SPLITS, seed: int = 0) -> Path:
    """Write the images into a folder, unless they are there already.

    The folder appears whole or not at all.

    Args:
        folder: Where they go.
        splits: Images of train and val; all others are test.
        seed: Draws the splits and the angles.

    Returns:
        The folder, as ``imagefolder:`` takes it.

    Raises:
        OSError: If it can't be written.
    """
    import PIL.Image
    from sklearn.datasets import load_digits

    target = Path(folder)
    if target.is_dir():
        return target
    found = load_digits()
    digits = len(found.target)
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-_ROTATION, _ROTATION, digits)
    chosen, test = stratified_split(found.target.tolist(), 1 - (splits["train"] + splits["val"]) / digits, seed)
    train, val = stratified_split(found.target[chosen].tolist(), splits["val"] / len(chosen), seed)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    bicubic = PIL.Image.Resampling.BICUBIC
    try:
        for split, part in {"train": chosen[train], "val": chosen[val], "test": test}.items():
            for number in part:
                # the source counts 0 to 16; a margin to turn in
                ink = (np.pad(found.images[number], 2) * (255 / 16)).round().astype(np.uint8)
                picture = PIL.Image.fromarray(ink).resize((_SIDE, _SIDE), bicubic).rotate(angles[number], bicubic)
                place = temporary / split / str(found.target[number])
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{number:04d}.png")
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
