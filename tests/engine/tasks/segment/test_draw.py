"""Pictures of label maps: a background as it is, classes tinted, edges drawn, a legend."""

import PIL.Image
import pytest
import torch

from involution.engine.tasks.segment.predictor import SegmentationResult, draw_segmentation

CLASSES = ("background", "road", "sky")
ORANGE, BLUE, GREY = (230, 159, 0), (86, 180, 233), (100, 100, 100)


@pytest.fixture
def result():
    labels = torch.zeros(480, 480, dtype=torch.uint8)
    labels[:, 160:320] = 1
    labels[:, 320:] = 2
    labels[400:, 320:] = 255
    return SegmentationResult("image", 0.0, CLASSES, {"road": 0.5, "background": 0.4, "sky": 0.1}, labels)


@pytest.fixture
def image():
    return PIL.Image.new("RGB", (480, 480), GREY)


def test_classes_are_tinted_and_everything_else_is_as_it_was(result, image):
    drawn = draw_segmentation(image, result)
    assert drawn.size == image.size
    # a background, and pixels of no class
    assert drawn.getpixel((80, 200)) == drawn.getpixel((400, 460)) == GREY
    tinted = tuple(round(0.55 * grey + 0.45 * colour) for grey, colour in zip(GREY, ORANGE, strict=True))
    assert drawn.getpixel((240, 200)) == tinted


def test_edges_have_the_full_colour_and_are_dark_on_the_plain_side(result, image):
    drawn = draw_segmentation(image, result)
    assert [drawn.getpixel((x, 200)) for x in (160, 161, 318, 319)] == [ORANGE] * 4
    assert [drawn.getpixel((x, 200)) for x in (320, 321)] == [BLUE] * 2
    assert drawn.getpixel((159, 200)) == (35, 35, 35)
    # the image's own edge is none
    assert drawn.getpixel((240, 0)) == drawn.getpixel((240, 200))


def test_without_a_background_every_class_is_tinted(image):
    labels = torch.zeros(480, 480, dtype=torch.uint8)
    drawn = draw_segmentation(image, SegmentationResult("image", 0.0, ("road", "sky"), {"road": 1.0}, labels))
    assert drawn.getcolors() == [(480 * 480, (158, 127, 55))]


def test_a_legend_is_below_with_what_was_found(result, image):
    drawn = result.draw_explained(image)
    assert drawn.size == (480, 480 + 44)
    assert drawn.crop((0, 0, 480, 480)).tobytes() == result.draw(image).tobytes()
    assert result.legend() == [("road", ORANGE), ("background", None), ("sky", BLUE)]
    assert drawn.getpixel((10, 488)) == ORANGE
