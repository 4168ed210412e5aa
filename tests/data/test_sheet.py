import numpy as np
import pytest
import torch
from generated import image_folder

from involution.data.registry import Options, open_data
from involution.data.scenes import make_digit_scenes
from involution.data.sheet import draw_sheet
from involution.data.transforms import detection_transform, segmentation_transform

SIDE = 264


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "small", {"train": 6, "val": 3})


def test_images_with_their_class(tmp_path):
    data = open_data("classify", f"imagefolder:{image_folder(tmp_path)}")
    sheet = draw_sheet(data, lambda image, label: (torch.zeros(3, 24, 20), label), count=3)
    assert sheet.size == (2 * 3 * SIDE, 2 * SIDE)
    pixels = np.asarray(sheet)
    # as it is, then twice as training sees it: black but for the name
    assert np.median(pixels[100:160, 100:160]) > 0
    assert np.median(pixels[100:160, SIDE + 100 : SIDE + 160]) == 0
    assert (pixels[SIDE:, 3 * SIDE :] == 255).all()


def test_boxes_and_maps_go_along(scenes):
    for task, options, augment in (
        ("detect", Options(masks=True), detection_transform(flip=1.0)),
        ("segment", Options(allow_empty=True), segmentation_transform((0.0,) * 3, (1.0,) * 3, flip=1.0)),
    ):
        state = torch.get_rng_state()
        data = open_data(task, f"digit-scenes:{scenes}", options)
        sheet = draw_sheet(data, augment, count=4)
        assert torch.equal(torch.get_rng_state(), state)
        pixels = np.asarray(sheet).astype(int)
        assert pixels.shape == (2 * SIDE, 6 * SIDE, 3)
        plain, seen, again = (pixels[4 : SIDE - 4, start + 4 : start + SIDE - 4] for start in (0, SIDE, 2 * SIDE))
        # mirrored but for the names of the boxes
        assert (abs(plain[:, ::-1] - seen).max(-1) < 8).mean() > 0.85
        assert np.array_equal(seen, again)
        assert np.array_equal(np.asarray(draw_sheet(data, augment, count=4)), np.asarray(sheet))
