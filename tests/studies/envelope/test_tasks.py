import numpy as np
import torch

from involution.studies import moved_digits
from involution.studies.envelope.tasks import CLUTTER, FEW, MOVED, TASKS, images


def test_images():
    for name, task in TASKS.items():
        train, test = images(name)
        assert train.pixels.shape == (task.images, 1, 16, 16)
        assert test.pixels.shape == (1197, 1, 16, 16)
        assert torch.bincount(train.digits).min() >= task.images // 10 - 3
    few, _ = images(FEW)
    assert torch.bincount(few.digits).tolist() == [10] * 10


def test_moved_digits_are_those_of_the_ablations():
    drawn = moved_digits.draw()
    train, test = images(MOVED)
    assert train.digits.tolist() == drawn.digits[drawn.splits["train"]].tolist()
    ink = drawn.pixels[drawn.splits["test"]]
    restored = test.pixels[:, 0] - test.pixels.min()
    torch.testing.assert_close(restored / restored.max(), torch.from_numpy(ink / np.float32(255)), rtol=0, atol=1e-6)
    torch.testing.assert_close(train.pixels.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)


def test_clutter_is_put_around_the_digit():
    plain, cluttered = (
        {part: found.pixels for part, found in zip("ab", images(name), strict=True)} for name in (MOVED, CLUTTER)
    )
    for part, pixels in cluttered.items():
        ink = pixels > pixels.min() + 0.01
        # nothing of the digit is gone, and nearly every image has more
        digit = plain[part] > plain[part].min() + 0.01
        assert bool((ink | ~digit).all())
        assert float((ink & ~digit).flatten(1).any(1).float().mean()) > 0.99


def test_the_same_every_time():
    images.cache_clear()
    first = images(CLUTTER)[0].pixels
    images.cache_clear()
    torch.testing.assert_close(images(CLUTTER)[0].pixels, first, rtol=0, atol=0)
