"""Objects of a detection data set that are told of."""

from pathlib import Path

import pytest

from involution.data.box_dataset import _tell_masks, _tell_objects
from involution.data.boxes import Box, BoxRecord, Scene
from involution.data.findings import Findings


@pytest.mark.parametrize(("other", "told"), [((4, 4.2, 20, 20), 1), ((4, 8, 20, 20), 0), ((30, 4, 10, 10), 0)])
def test_a_place_that_has_two_classes_is_told(other, told):
    boxes = (Box(1, other), Box(0, (4, 4, 20, 20)), Box(0, (40, 30, 9, 9)))
    record = BoxRecord(Path("train.json"), ["car", "bus"], [1, 2], [Scene(1, Path("0.png"), 64, 48, boxes)])
    findings = Findings()
    _tell_objects("train", record, findings, False)
    said = "train: boxes that have the place of one of another class, which may be right: 1 (train 0.png)"
    assert findings.notes == [said] * told


def test_masks_without_a_pixel_are_told():
    def scene(number, mask):
        return Scene(number, Path(f"{number}.png"), 40, 30, (Box(0, (5, 5, 10, 10), mask=mask),))

    masks = [
        [[5, 5, 15, 5, 15, 15, 5, 15]],
        [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]],
        {"size": [30, 40], "counts": [30 * 40]},
        {"size": [30, 40], "counts": [30 * 5, 30 * 10, 30 * 25]},
    ]
    scenes = [scene(number, mask) for number, mask in enumerate(masks)]
    findings = Findings()
    _tell_masks("train", BoxRecord(Path("train.json"), ["car"], [1], scenes), findings)
    assert findings.notes == [
        "train: objects whose mask has no pixel, which are learnt as such: 2 (train 1.png, train 2.png)",
    ]


SQUARE = [2, 2, 30, 2, 30, 28, 2, 28]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ([SQUARE, [8, 8, 8, 20, 20, 20, 20, 8]], True),
        ([[8, 8, 8, 20, 20, 20, 20, 8], SQUARE], True),
        ([[2, 2, 12, 2, 12, 12], [14, 14, 30, 14, 30, 28]], False),
        # in the box around the other and not in it
        ([[2, 2, 30, 2, 2, 28], [20, 20, 29, 20, 29, 27]], False),
        ([SQUARE, [20, 20, 36, 20, 36, 24]], False),
        ([SQUARE, SQUARE], False),
    ],
    ids=["hole", "hole first", "parts", "beside the slope", "across", "twice"],
)
def test_polygons_inside_another_are_told(mask, told):
    scene = Scene(1, Path("0.png"), 40, 30, (Box(0, (2, 2, 28, 26), mask=mask),))
    findings = Findings()
    _tell_masks("train", BoxRecord(Path("train.json"), ["car"], [1], [scene]), findings)
    said = "train: masks with a polygon inside another, which is filled; holes want run lengths: 1 (train 0.png)"
    assert findings.notes == [said] * told
