"""Images to begin with: digits and scenes that no training on the embedded data sets saw (with seed 0)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_DIGITS = (3, 5, 8)
_SCENES = (11, 12, 13)


@cache
def example_images() -> tuple[tuple[tuple[str, ...], str, Image], ...]:
    """(tasks it suits, name, image) of each example: handwritten digits 8×8, scenes of them 128×128."""
    import numpy as np
    import PIL.Image

    from involution.data.arrays import digits_splits
    from involution.data.scenes import compose_scene

    unseen = digits_splits(0)[2]
    pixels, labels = unseen.images[:, 0].numpy(), unseen.labels.numpy()
    found: list[tuple[tuple[str, ...], str, Image]] = [
        (("classify",), f"Digit {digit}", PIL.Image.fromarray(pixels[labels == digit][0], mode="L"))
        for digit in _DIGITS
    ]
    for number, seed in enumerate(_SCENES):
        scene, _, _ = compose_scene(pixels / 255.0, labels, np.random.default_rng(seed))
        found.append((("detect", "segment"), f"Scene {number + 1}", PIL.Image.fromarray(scene)))
    return tuple(found)
