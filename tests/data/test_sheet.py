import numpy as np
import pytest
import torch
from generated import image_folder
from PIL import Image

from involution.data.registry import Options, open_data
from involution.data.scenes import make_digit_scenes
from involution.data.sheet import draw_sheet
from involution.data.transforms import detection_transform, segmentation_transform

SIDE, ROW = 264, 284


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "small", {"train": 6, "val": 3})


def test_images_with_their_class(tmp_path):
    data = open_data("classify", f"imagefolder:{image_folder(tmp_path)}")
    sheet = draw_sheet(data, lambda image, label: (torch.zeros(3, 24, 20), label), [], count=3)
    assert sheet.size == (2 * 3 * SIDE, 2 * ROW)
    pixels = np.asarray(sheet)
    # as it is, then twice as training sees it: black but for the name
    assert np.median(pixels[100:160, 100:160]) > 0
    assert np.median(pixels[100:160, SIDE + 100 : SIDE + 160]) == 0
    assert (pixels[ROW:, 3 * SIDE :] == 255).all()


def test_boxes_and_maps_go_along(scenes):
    for task, options, augment in (
        ("detect", Options(masks=True), detection_transform(flip=1.0)),
        ("segment", Options(allow_empty=True), segmentation_transform((0.0,) * 3, (1.0,) * 3, flip=1.0)),
    ):
        state = torch.get_rng_state()
        data = open_data(task, f"digit-scenes:{scenes}", options)
        sheet = draw_sheet(data, augment, [], count=4)
        assert torch.equal(torch.get_rng_state(), state)
        pixels = np.asarray(sheet).astype(int)
        legend = 0 if task == "detect" else 2 * 20 + 4
        assert pixels.shape == (2 * ROW + legend, 6 * SIDE, 3)
        plain, seen, again = (pixels[4 : SIDE - 4, start + 4 : start + SIDE - 4] for start in (0, SIDE, 2 * SIDE))
        # mirrored but for the names of the boxes
        assert (abs(plain[:, ::-1] - seen).max(-1) < 8).mean() > 0.85
        assert np.array_equal(seen, again)
        assert np.array_equal(np.asarray(draw_sheet(data, augment, [], count=4)), np.asarray(sheet))


def test_large_images_and_many_classes(tmp_path):
    """Lines and names are drawn at the size of the tile, and no two classes have one colour."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        Image.new("RGB", (2000, 1000), (9, 9, 9)).save(tmp_path / "images" / split / f"{'long' * 30}.png")
        labels = np.repeat(np.repeat(np.arange(50, dtype=np.uint8)[None], 1000, 0), 40, 1)
        Image.fromarray(labels).save(tmp_path / "labels" / split / f"{'long' * 30}.png")
    (tmp_path / "classes.txt").write_text("".join(f"class{i}\n" for i in range(50)))
    data = open_data("segment", f"masks:{tmp_path}")
    pixels = np.asarray(draw_sheet(data, segmentation_transform((0.0,) * 3, (1.0,) * 3, flip=0.0), []))
    # the middle line of the first tile: 256 x 128 pixels, a stripe of about five for each class
    middle = pixels[132, 4:260][2::5]
    assert len(np.unique(middle, axis=0)) > 45
    # 40 names and how many more, three in a line
    assert pixels.shape[:2] == (ROW + 14 * 20 + 4, 3 * SIDE)
