"""Resizing in a graph: the pixels of torchvision, which `predict` uses, and of Pillow."""

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import InterpolationMode, v2

from involution.export.resample import AdaptivePool, FitInside, ShorterSide, open_pools


def photographs():
    return [torch.from_numpy(np.array(pixels)).permute(2, 0, 1) for pixels in load_sample_images().images]


def shapes():
    """Photographs as they are, small, narrow, and just as large as wanted."""
    china, flower = photographs()
    return [china, flower, china[:, :50, :70], flower[:, :, :41], china[:, 100:164, 200:264], flower[:, :300, 1:2]]


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 0.005), ("bicubic", 0.01)])
@pytest.mark.parametrize("crop", [None, 56, 57])
def test_one_pixel_in_a_hundred_differs_by_one_from_torchvisions_and_pillows(interpolation, most, crop):
    mode = InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(64, mode, antialias=True), *([v2.CenterCrop(crop)] if crop else [])])
    ours = ShorterSide(64, crop, interpolation)
    for picture in shapes():
        found = ours(picture[None])[0]
        wanted = theirs(picture).float()
        assert found.shape == wanted.shape
        difference = (found - wanted).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < most
        pillow = theirs(PIL.Image.fromarray(picture.permute(1, 2, 0).numpy()))
        difference = (found - torch.from_numpy(np.array(pillow)).permute(2, 0, 1)).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < most


def test_an_image_of_the_right_size_stays_as_it_is():
    picture = photographs()[0][None, :, :64, :90]
    assert torch.equal(ShorterSide(64)(picture), picture.float())


@pytest.mark.parametrize(("short", "longest"), [(128, 128), (200, 333), (500, 1000)])
def test_a_detectors_resize_is_torchvisions(short, longest):
    theirs = GeneralizedRCNNTransform(short, longest, [0.0] * 3, [1.0] * 3).eval()
    ours = FitInside(short, longest, 32, None)
    for picture in (*shapes()[:4], torch.zeros(3, 50, 206, dtype=torch.uint8)):
        image = picture / 255
        batch, _ = theirs([image])
        found, size = ours(image[None])
        # at least two rows of the coarsest level
        height, width = batch.tensors.shape[2:]
        assert found.shape[2:] == (max(height, 64), max(width, 64))
        assert tuple(size.tolist()) == batch.image_sizes[0]
        assert found[..., height:, :].abs().sum() == found[..., width:].abs().sum() == 0
        torch.testing.assert_close(found[..., :height, :width], batch.tensors, rtol=0, atol=2e-4)


def test_a_detectors_image_fits_into_the_room_there_is():
    picture = photographs()[0][None] / 255
    found, size = FitInside(400, 1000, 32, (416, 640))(picture)
    assert (found.shape, size.tolist()) == ((1, 3, 416, 640), [400, 599])
    found, size = FitInside(400, 1000, 32, (256, 640))(picture)
    assert (found.shape[2:], size.tolist()) == ((256, 640), [256, 383])


def test_pools_are_those_of_torch():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d((3, 6))))
    open_pools(network)
    assert isinstance(network[0], nn.AdaptiveAvgPool2d)
    assert isinstance(network[1][0], AdaptivePool)
    for sizes in ((7, 13), (2, 3), (12, 6)):
        x = torch.randn(2, 4, *sizes)
        torch.testing.assert_close(network[1](x), nn.functional.adaptive_avg_pool2d(x, (3, 6)))
