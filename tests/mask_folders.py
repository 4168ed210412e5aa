"""Small folders of images and label maps."""

import numpy as np
import PIL.features
import PIL.Image

from involution.data.registry import Options, open_data


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def tiny(root, values, split="train", name="a", image=(8, 8), suffix=".png", mode=None):
    """An image and its label map, made of some values in stripes."""
    save(root / split / f"{name}.jpg", np.zeros((*image, 3), np.uint8))
    stripes = np.resize(np.array(values, np.uint8), (8, 8))
    save(root / "labels" / split / f"{name}{suffix}", stripes, mode)


def binary(root, values, classes="background\nlesion\n"):
    for split in ("train", "val"):
        tiny(root, values, split)
    (root / "classes.txt").write_text(classes)


def open_root(root, **options):
    return open_data("segment", f"masks:{root}", Options(**options))
