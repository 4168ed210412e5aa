"""Label maps: Cityscapes' format and folders, and how broken files are told."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors

from involution.data.errors import DataError
from involution.data.segmentation import IGNORED, open_segmentation
from involution.data.transforms import CropWithLimit, segmentation_eval_transform, segmentation_transform

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


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
    data = open_segmentation(f"masks:{masks}")
    assert data.classes == ["sky", "road", "car"]
    assert (len(data.train), len(data.val)) == (3, 3)
    image, labels = data.train[1]
    assert image.shape == (3, 20, 30)
    assert torch.equal(labels, torch.from_numpy(np.array(PIL.Image.open(masks / "labels/train/1.png"))).long())
    assert (labels[0] == IGNORED).all()


def test_cityscapes_ids_become_the_19_classes(tmp_path):
    for split in ("train", "val"):
        ids = np.arange(36, dtype=np.uint8).reshape(4, 9)
        ids[3, 8] = 200
        save(tmp_path / "leftImg8bit" / split / "bonn" / "bonn_0_1_leftImg8bit.png", np.zeros((4, 9, 3), np.uint8))
        save(tmp_path / "gtFine" / split / "bonn" / "bonn_0_1_gtFine_labelIds.png", ids)
    data = open_segmentation(f"cityscapes:{tmp_path}")
    assert len(data.classes) == 19
    assert (data.classes[0], data.classes[13], data.classes[18]) == ("road", "car", "bicycle")
    labels = data.val[0][1].flatten()
    # published: road is 7, car 26, bicycle 33; 0 to 6 and caravan, trailer (29, 30) don't count
    assert (labels[7], labels[26], labels[33]) == (0, 13, 18)
    assert (labels[[0, 6, 29, 30, 35]] == IGNORED).all()
    assert (labels != IGNORED).sum() == 19


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
        open_segmentation(f"masks:{masks}")
    data = open_segmentation(f"masks:{masks}", on_problem="skip")
    assert (len(data.train), len(data.problems)) == (2, 1)
    for i in range(2):
        data.train[i]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mask:x", "did you mean masks"),
        ("masks", "needs a path"),
        ("masks:/no/such", "no such folder"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(DataError, match=message):
        open_segmentation(spec)


def test_incomplete_folders(masks):
    (masks / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(DataError, match="different class names"):
        open_segmentation(f"masks:{masks}")
    (masks / "classes.txt").unlink()
    with pytest.raises(DataError, match="wanted the class names"):
        open_segmentation(f"masks:{masks}")
    with pytest.raises(DataError, match="no leftImg8bit/train/"):
        open_segmentation(f"cityscapes:{masks}")


def pair(height=40, width=60):
    labels = torch.zeros(height, width, dtype=torch.long)
    labels[:, width // 2 :] = 1
    image = labels[None].expand(3, -1, -1).to(torch.uint8) * 255
    return tv_tensors.Image(image.clone()), tv_tensors.Mask(labels)


def test_image_and_labels_move_together():
    transform = segmentation_transform(MEAN, STD, min_size=40, scale=(0.5, 2.0), crop=(32, 32), flip=0.5)
    seen = set()
    for _ in range(20):
        image, labels = transform(*pair())
        assert image.shape == (3, 32, 32)
        assert type(image) is type(labels) is torch.Tensor
        known = labels != IGNORED
        agree = ((image[0] > 0) == (labels == 1))[known]
        # at the border of the classes the image is blurred
        assert agree.float().mean() > 0.9
        seen.add(bool(labels[0, 0] == 1))
    assert seen == {True, False}


@pytest.mark.parametrize("how", [{"rotate": 30.0}, {"shear": 20.0}, {"zoom": (0.5, 0.8)}, {"zoom": (1.2, 2.0)}])
def test_rotation_shear_and_zoom_move_image_and_labels_together(how):
    transform = segmentation_transform(MEAN, STD, **how)
    ignored = 0
    for _ in range(20):
        image, labels = transform(*pair())
        assert image.shape == (3, 40, 60)
        known = labels != IGNORED
        ignored += int((~known).sum())
        assert set(labels[known].unique().tolist()) <= {0, 1}
        agree = ((image[0] > 0) == (labels == 1))[known]
        assert agree.float().mean() > 0.9
    # what comes in from outside does not count; magnified, nothing does
    assert (ignored == 0) == (how.get("zoom", (0,))[0] > 1)


def test_small_images_are_padded_by_labels_that_do_not_count():
    image, labels = CropWithLimit(64, 64, 1.0, (127.5,) * 3)(*pair())
    assert image.shape == (3, 64, 64)
    assert (labels == IGNORED).sum() == 64 * 64 - 40 * 60
    assert (image[:, 40:] == 127).all()


def test_a_crop_is_drawn_again_while_one_class_fills_it():
    shares = {}
    for limit in (1.0, 0.75):
        crop = CropWithLimit(20, 20, limit, (0.0,) * 3)
        fills = [float((crop(*pair())[1] == 1).float().mean()) for _ in range(200)]
        shares[limit] = sum(0.25 <= fill <= 0.75 for fill in fills) / len(fills)
    # of 41 places 11 are mixed so: one draw, or ten
    assert 0.1 < shares[1.0] < 0.45
    assert shares[0.75] > 0.85


def test_evaluation_resizes_the_image_alone():
    image, labels = segmentation_eval_transform(MEAN, STD, 20)(*pair())
    assert image.shape == (3, 20, 30)
    assert labels.shape == (40, 60)
