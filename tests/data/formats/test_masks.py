"""Label maps in folders, and how broken files are told."""

import numpy as np
import PIL.Image
import pytest
import torch

from involution.data.errors import DataError
from involution.data.label_maps import IGNORED
from involution.data.registry import Options, open_data


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def masks(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(3):
            save(tmp_path / split / f"{i}.jpg", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
            labels = rng.integers(0, 3, (20, 30), dtype=np.uint8)
            labels[0] = IGNORED
            save(tmp_path / "labels" / split / f"{i}.png", labels)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def test_folders_of_label_maps(masks):
    data = open_data("segment", f"masks:{masks}")
    assert data.classes == ["sky", "road", "car"]
    assert (len(data.train), len(data.val)) == (3, 3)
    image, labels = data.train[1]
    assert image.shape == (3, 20, 30)
    assert torch.equal(labels, torch.from_numpy(np.array(PIL.Image.open(masks / "labels/train/1.png"))).long())
    assert (labels[0] == IGNORED).all()


BROKEN = {
    "missing": (lambda root: (root / "labels/train/1.png").unlink(), r"train/1\.jpg: no label map"),
    "value": (
        lambda root: save(root / "labels/train/1.png", np.full((20, 30), 7, np.uint8)),
        "label 7 found, but there are 3 classes",
    ),
    "size": (
        lambda root: save(root / "labels/train/1.png", np.zeros((30, 20), np.uint8)),
        r"\(20, 30\) pixels, but its image 1\.jpg has \(30, 20\)",
    ),
    "colour": (
        lambda root: save(root / "labels/train/1.png", np.zeros((20, 30, 3), np.uint8)),
        "one channel with 8 bits, got mode RGB",
    ),
    "image": (lambda root: (root / "train/1.jpg").write_bytes(b"x"), r"1\.jpg: not an image"),
    "truncated": (
        lambda root: (root / "labels/train/1.png").write_bytes((root / "labels/train/1.png").read_bytes()[:100]),
        r"labels/train/1\.png: broken",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_refused_or_skipped(masks, name):
    spoil, message = BROKEN[name]
    spoil(masks)
    with pytest.raises(DataError, match=message):
        open_data("segment", f"masks:{masks}")
    data = open_data("segment", f"masks:{masks}", Options(on_problem="skip"))
    assert (len(data.train), len(data.problems)) == (2, 1)
    for i in range(2):
        data.train[i]


def test_incomplete_folders(masks):
    (masks / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(DataError, match="line 2 repeats 'sky'; wanted different class names"):
        open_data("segment", f"masks:{masks}")
    (masks / "classes.txt").unlink()
    with pytest.raises(DataError, match="wanted the class names"):
        open_data("segment", f"masks:{masks}")
