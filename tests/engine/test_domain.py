"""An image of another kind than those of the training is said to be one, and no other is."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from involution.engine.domain import mismatch


def card(side=16, channels=1, spec="digits", task="classify"):
    return SimpleNamespace(task=task, input_size=(channels, side, side), recipe={"data": {"spec": spec}})


def photo(width, height, grey=False):
    # from red at the left to blue at the right
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    image = Image.fromarray(np.stack([ramp[::-1], ramp // 3, ramp], axis=-1)[None].repeat(height, 0))
    return image.convert("L") if grey else image


FOLDER = "imagefolder:photos"


@pytest.mark.parametrize(
    ("known", "image", "said"),
    [
        (card(), photo(640, 427), "knows 16×16 grey digits; a photograph of 640×427 was shown."),
        (card(), photo(12, 10), "knows 16×16 grey digits; a colour image of 12×10 was shown."),
        (card(), photo(300, 300, grey=True), "knows 16×16 grey digits; a grey image of 300×300 was shown."),
        (card(32, 3, FOLDER), photo(900, 600), "knows 32×32 colour images; a photograph of 900×600 was shown."),
        (card(224, 3, FOLDER), photo(16, 16), "knows 224×224 colour images; a colour image of 16×16 was shown."),
        (card(0, 3, "digit-scenes", "segment"), photo(640, 427), "knows 128×128 scenes of digits; a photograph of"),
        (card(800, 1, FOLDER, "detect"), photo(640, 427), "knows grey images; a photograph of 640×427 was shown."),
    ],
)
def test_another_kind(known, image, said):
    assert said in mismatch(known, image)


@pytest.mark.parametrize(
    ("known", "image"),
    [
        (card(), photo(8, 8, grey=True)),
        # grey, in a file of colours
        (card(), photo(16, 16, grey=True).convert("RGB")),
        (card(32, 3, FOLDER), photo(500, 400)),
        (card(224, 3, FOLDER), photo(4000, 3000)),
        (card(224, 3, FOLDER), photo(224, 300, grey=True)),
        (card(0, 3, "digit-scenes", "segment"), photo(128, 128)),
        (card(800, 3, FOLDER, "detect"), photo(64, 64)),
    ],
)
def test_the_same_kind(known, image):
    assert mismatch(known, image) == ""
