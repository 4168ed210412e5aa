"""digit-scenes: scenes composed of scikit-learn's handwritten digits, as a COCO data set with label maps.

Each scene of 128×128 pixels shows 2 to 5 digits of 20 to 48 pixels, rotated and coloured, on a textured, noisy
background. It is composed once and written to disk in real formats::

    train/000000.png                     the images, RGB; the same below val/
    labels/train/000000.png              label maps: 0 background, 1 + digit elsewhere
    annotations/instances_train.json     COCO: boxes, masks as run lengths, categories 1 to 10 named 0 to 9
    classes.txt                          the label maps' classes

The same seed gives the same files, and no digit image is in both train and val.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from involution.data.errors import DataError
from involution.data.text import read_names

# the default folder
SCENES_FOLDER = "data/digit-scenes"
SPLITS = {"train": 800, "val": 200}
SIDE = 128
MIN_DIGIT, MAX_DIGIT = 20, 48
# how much of the smaller digit's box another may cover
OVERLAP = 0.3
_ROTATION = 30.0
Array = np.ndarray[Any, Any]


def make_digit_scenes(folder: str | os.PathLike[str], splits: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Compose the scenes into a folder, unless it has them already.

    The folder is moved into place when complete, so it is never half written.

    Args:
        folder: where to write the data set.
        splits: scenes per split; 800 train and 200 val by default.
        seed: draws the digits of each split and every scene.

    Returns:
        The folder.

    Raises:
        DataError: if it holds anything else.
        OSError: if it can't be written.
    """
    target = Path(folder)
    names = ["background", *(str(digit) for digit in range(10))]
    if (target / "classes.txt").is_file() and read_names(target / "classes.txt") == names:
        return target
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target} holds something other than the scenes of digits; wanted a new or an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for number, (split, glyphs) in enumerate(_digits_of_splits(splits or SPLITS, seed).items()):
            rng = np.random.default_rng([seed, number])
            _write_split(temporary, split, (splits or SPLITS)[split], glyphs, rng)
        (temporary / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        try:
            os.replace(temporary, target)
        except OSError:
            # another process has written it meanwhile
            if not (target / "classes.txt").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _digits_of_splits(splits: dict[str, int], seed: int) -> dict[str, tuple[Array, Array]]:
    """Images [N, 8, 8] from 0 to 1 and labels [N] of each split, four fifths of them the first split's."""
    from sklearn.datasets import load_digits

    from involution.data.splits import stratified_split

    found = load_digits()
    parts = stratified_split(found.target.tolist(), 0.2, seed)
    return {split: (found.images[part] / 16.0, found.target[part]) for split, part in zip(splits, parts, strict=True)}


def _write_split(root: Path, split: str, count: int, glyphs: tuple[Array, Array], rng: np.random.Generator) -> None:
    import PIL.Image
    from pycocotools import mask as run_lengths

    for folder in (root / split, root / "labels" / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{number:06d}.png"
        scene, masks, digits = compose_scene(*glyphs, rng)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        images.append({"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE})
        for mask, digit in zip(masks, digits, strict=True):
            labels[mask] = digit + 1
            encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": digit + 1,
                    "bbox": _box(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [SIDE, SIDE], "counts": encoded["counts"].decode("ascii")},
                }
            )
        PIL.Image.fromarray(scene).save(root / split / name)
        PIL.Image.fromarray(labels).save(root / "labels" / split / name)
    content = {
        "info": {"description": "digit-scenes, composed of scikit-learn's handwritten digits"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def compose_scene(images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, list[Array], list[int]]:
    """Compose one scene.

    Args:
        images: handwritten digits [N, 8, 8] from 0 to 1.
        labels: their digits [N].
        rng: draws everything.

    Returns:
        The scene [128, 128, 3] (uint8), the visible pixels [128, 128] (bool) of each digit, and the digits.
    """
    scene, level = _texture(rng)
    masks: list[Array] = []
    inked: list[int] = []
    digits: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    count = int(rng.integers(2, 6))
    while len(masks) < count:
        chosen = int(rng.integers(len(images)))
        ink = _glyph(images[chosen], rng)
        height, width = ink.shape
        top, left = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
        box = (top, left, top + height, left + width)
        part = (slice(top, top + height), slice(left, left + width))
        mask = np.zeros((SIDE, SIDE), bool)
        mask[part] = ink > 0.5
        visible = [below & ~mask for below in masks]
        # enough of a digit must stay visible under several others
        hidden = any(2 * seen.sum() < below for seen, below in zip(visible, inked, strict=True))
        if hidden or any(_shared(box, other) > OVERLAP for other in boxes):
            continue
        masks = [*visible, mask]
        inked.append(int(mask.sum()))
        boxes.append(box)
        digits.append(int(labels[chosen]))
        # light ink on a dark background or the reverse, so that every digit can be seen
        colour = rng.uniform(150, 255, 3) if level < 128 else rng.uniform(0, 105, 3)
        scene[part] = scene[part] * (1 - ink[..., None]) + colour * ink[..., None]
    scene = scene + rng.normal(0, 8, scene.shape)
    return scene.clip(0, 255).round().astype(np.uint8), masks, digits


def _glyph(image: Array, rng: np.random.Generator) -> Array:
    """A digit's ink from 0 to 1, resized, rotated and cropped to its extent."""
    import PIL.Image

    while True:
        size = int(rng.integers(MIN_DIGIT, MAX_DIGIT + 1))
        angle = float(rng.uniform(-_ROTATION, _ROTATION))
        picture = PIL.Image.fromarray((np.pad(image, 2) * 255).astype(np.uint8))
        # by its larger side, because digits fill their eight pixels to different degrees
        picture = picture.resize((size * 3 // 2, size * 3 // 2), PIL.Image.Resampling.BICUBIC)
        picture = picture.rotate(angle, PIL.Image.Resampling.BICUBIC, expand=True)
        ink = np.asarray(picture, dtype=np.float64) / 255
        ink = ((ink - 0.3) * 2).clip(0, 1)
        rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if MIN_DIGIT <= max(ink.shape) <= MAX_DIGIT:
            return ink


def _shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, height) * max(0, width) / smaller


def _texture(rng: np.random.Generator) -> tuple[Array, float]:
    """A cloudy background [128, 128, 3], dark or light, and its mean brightness."""
    import PIL.Image

    level = float(rng.uniform(40, 85) if rng.random() < 0.5 else rng.uniform(170, 215))
    clouds = np.zeros((SIDE, SIDE, 3))
    for cells, strength in ((3, 18.0), (8, 12.0), (24, 8.0)):
        for channel in range(3):
            coarse = PIL.Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
            clouds[..., channel] += np.asarray(coarse.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC))
    return level + clouds, level


def _box(mask: Array) -> list[int]:
    """COCO's box of a mask: left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]
