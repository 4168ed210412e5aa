"""Average precision of objects that have no ids, or the id 0."""

import dataclasses
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
