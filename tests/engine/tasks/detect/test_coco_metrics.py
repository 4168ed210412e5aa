"""Average precision: of objects without ids and of large ones, of sizes that do not occur, and of nothing found."""

import dataclasses
import math
from pathlib import Path

import pytest

from involution.data.boxes import Box, BoxRecord, Scene
from involution.engine.tasks.detect.coco_metrics import judge


@pytest.mark.parametrize("numbered", [False, True], ids=["no ids", "from 0"])
def test_objects_are_told_apart_whatever_their_ids(numbered):
    # as YOLO's and Pascal VOC's have none, and many COCO files count from 0
    boxes = [Box(place % 2, (4.0 * place, 2.0, 20.0, 10.0 + place)) for place in range(4)]
    if numbered:
        boxes = [dataclasses.replace(box, id=place) for place, box in enumerate(boxes)]
    scenes = [Scene(key, Path(f"{key}.png"), 64, 48, (box,)) for key, box in enumerate(boxes, 1)]
    record = BoxRecord(Path("boxes"), ["cat", "dog"], [0, 1], scenes)
    found = [
        {"image_id": scene.id, "category_id": box.label, "bbox": list(box.xywh), "score": 0.9}
        for scene, box in zip(scenes, boxes, strict=True)
    ]

    judgement = judge(record, found)

    assert judgement.figures["ap"] == pytest.approx(1)
    assert judgement.class_ap == pytest.approx([1, 1])
    assert judgement.mistakes == [0] * 4


@pytest.mark.parametrize("wrong", [False, True], ids=["nothing found", "found elsewhere"])
def test_sizes_and_classes_without_objects_have_no_figure(wrong):
    boxes = (Box(0, (4.0, 4.0, 12.0, 12.0)), Box(1, (20.0, 20.0, 12.0, 12.0), crowd=True))
    record = BoxRecord(Path("boxes"), ["cat", "dog", "owl"], [1, 2, 3], [Scene(1, Path("1.png"), 64, 48, boxes)])
    found = [{"image_id": 1, "category_id": 1, "bbox": [40.0, 30.0, 8.0, 8.0], "score": 0.9}] if wrong else []

    judgement = judge(record, found)

    assert {name for name, value in judgement.figures.items() if math.isnan(value)} == {
        "ap_medium",
        "ap_large",
        "ar_medium",
        "ar_large",
    }
    assert judgement.class_ap == pytest.approx([0, math.nan, math.nan], nan_ok=True)
    assert judgement.precision == [0] * 101
    assert judgement.mistakes == [1 + wrong]


def test_large_ids_are_told_apart():
    ids = [1, 2**63 + 1, 2**63 + 2]
    scenes = [Scene(key, Path(f"{key}.png"), 64, 48, (Box(0, (4.0, 2.0, 20.0, 10.0)),)) for key in ids]
    record = BoxRecord(Path("boxes"), ["cat", "dog"], [2**63 + 1, 1], scenes)
    found = [{"image_id": key, "category_id": 2**63 + 1, "bbox": [4.0, 2.0, 20.0, 10.0], "score": 0.9} for key in ids]

    assert judge(record, found).figures["ap"] == pytest.approx(1)
