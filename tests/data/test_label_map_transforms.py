"""Images and their label maps are transformed together."""

import pytest
import torch
from torchvision import tv_tensors

from involution.data.label_code import IGNORED
from involution.data.transforms import CropWithLimit, segmentation_eval_transform, segmentation_transform

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


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
