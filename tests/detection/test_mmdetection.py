"""mmdetection's anchors and sampling against their definitions."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from involution.detection import faster_rcnn, mask_rcnn, retinanet
from involution.detection.mmdetection import HalfPixelRoIAlign
from involution.models.pyramid import Backbone


def anchors_of(generator, sizes, image):
    images = ImageList(torch.zeros(1, 3, *image), [image])
    return generator(images, [torch.zeros(1, 1, *size) for size in sizes])[0]


def test_anchors_lie_on_the_nominal_strides_and_keep_their_sides():
    model = retinanet(3, "rednet26_stem7", conventions="mmdetection")
    # 800 pixels in 7 rows of 128
    sizes = [(100, 40), (50, 20), (25, 10), (13, 5), (7, 3)]
    found = anchors_of(model.anchor_generator, sizes, (800, 320))
    expected = []
    for stride, (rows, columns) in zip((8, 16, 32, 64, 128), sizes, strict=True):
        for row in range(rows):
            for column in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    for octave in range(3):
                        side = 4 * stride * 2 ** (octave / 3)
                        width, height = side / ratio**0.5, side * ratio**0.5
                        x, y = column * stride, row * stride
                        expected.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-3)
    # torchvision's grid of the coarsest level has another step
    other = anchors_of(retinanet(3, "rednet26_stem7").anchor_generator, sizes, (800, 320))
    assert other.shape == found.shape
    assert (other[-9:] - found[-9:]).abs().max() > 80


def test_regions_are_sampled_at_half_pixels_on_the_level_of_their_size():
    strides = (4, 8, 16, 32)
    align = HalfPixelRoIAlign(["0", "1", "2", "3"], 7, strides)
    # the value of a position is its place on the level's grid, and the level in the second channel
    levels = {}
    for level, stride in enumerate(strides):
        size = 1024 // stride
        ramp = torch.arange(size, dtype=torch.float64).expand(size, size)
        levels[str(level)] = torch.stack([torch.stack([ramp, torch.full_like(ramp, level)])] * 2)
    cases = [
        (60, 55, 0),
        (56, 56, 0),
        (111, 111, 0),
        (112, 113, 1),
        (223, 222, 1),
        (224, 225, 2),
        (449, 449, 3),
        (800, 800, 3),
    ]
    boxes = torch.tensor([[100.3, 90, 100.3 + width, 90 + height] for width, height, _ in cases], dtype=torch.float64)
    found = align(levels, [boxes[:4], boxes[4:]])
    for features, (width, _, level) in zip(found, cases, strict=True):
        assert (features[1] == level).all()
        centres = 100.3 + (torch.arange(7) + 0.5) * width / 7
        torch.testing.assert_close(features[0, 3], centres.double() / strides[level] - 0.5)
    assert align(levels, [boxes[:0], boxes[:0]]).shape == (0, 2, 7, 7)


def test_models_train_and_predict_by_these_conventions():
    torch.manual_seed(0)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 64)]
    box = torch.tensor([[5.0, 5.0, 40.0, 50.0]])
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    for build in (retinanet, faster_rcnn, mask_rcnn):
        levels = (2, 3, 4) if build is retinanet else (1, 2, 3, 4)
        body = Backbone("rednet26_stem7", levels)
        model = build(3, body, out_channels=16, conventions="mmdetection", min_size=64, max_size=96)
        targets = [
            {"boxes": box, "labels": torch.tensor([1]), "masks": masks[..., : image.shape[-1]]} for image in images
        ]
        targets[0]["masks"] = torch.zeros(1, 64, 96, dtype=torch.uint8)
        loss = sum(model(images, targets).values())
        loss.backward()
        assert loss.isfinite()
        with torch.no_grad():
            assert len(model.eval()(images)) == 2


def test_other_conventions_are_refused():
    with pytest.raises(ValueError, match="conventions must be torchvision or mmdetection, got 'detectron2'"):
        retinanet(3, "rednet26_stem7", conventions="detectron2")
