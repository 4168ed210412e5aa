"""COCO's format: images that EXIF turns."""

import PIL.Image
import pytest
from coco_sets import content, folder_of_coco, open_root, write

from involution.data.errors import DataError


@pytest.fixture
def root(tmp_path):
    return folder_of_coco(tmp_path)


def turned(root, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    for i in range(3):
        PIL.Image.new("RGB", (48, 64) if orientation > 4 else (64, 48)).save(root / "train2017" / f"{i}.png", exif=exif)


def test_sizes_of_stored_pixels_name_exif(root):
    turned(root, 6)
    assert open_root(root).train[0][0].shape == (3, 48, 64)
    data = content("train")
    for image in data["images"]:
        image |= {"width": 48, "height": 64}
    data["annotations"] = data["annotations"][:1]
    write(root, "train", data)
    with pytest.raises(DataError, match=r"64 x 48 pixels, but .* for 48 x 64: EXIF orientation 6 turns it"):
        open_root(root)
    stored = open_root(root, exif="ignore")
    assert stored.train[0][0].shape == (3, 64, 48)
    assert "train: EXIF orientation ignored: 3 (0.png, 1.png, 2.png)" in stored.findings.notes


def test_a_turn_that_leaves_the_size_is_told(root):
    turned(root, 3)
    notes = open_root(root).findings.notes
    assert notes[0] == (
        "train: turned upright by their EXIF orientation: 3 (0.png, 1.png, 2.png); boxes are taken to fit the upright "
        "images; --data.exif ignore reads the pixels as stored"
    )


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_masks_fit_the_upright_images_of_every_orientation(root, orientation):
    turned(root, orientation)
    data = open_root(root, masks=True)
    image, target = data.train[0]
    assert image.shape == (3, 48, 64)
    assert target["boxes"][0].tolist() == [10, 5, 30, 25]
    assert target["masks"][0].sum() == 400
    assert any("turned upright by their EXIF orientation: 3" in note for note in data.findings.notes)


def test_run_lengths_of_stored_pixels_name_exif(root):
    turned(root, 6)
    data = content("train")
    data["annotations"][0]["segmentation"] = {"size": [64, 48], "counts": [0, 48, 3024]}
    write(root, "train", data)
    with pytest.raises(DataError, match=r"size \[64, 48\] for an image of \[48, 64\] .*--data\.exif ignore"):
        open_root(root, masks=True)


def test_a_setting_of_exif_that_does_not_fit_names_the_other(root):
    turned(root, 8)
    with pytest.raises(DataError, match=r"orientation 8 would turn it; .*--data\.exif apply"):
        open_root(root, exif="ignore")
