"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from involution.data.boxes import BoxRecord

# as COCOeval.summarize orders them
FIGURES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
# score of a detection that counts as a mistake where there is no such object
_SURE = 0.5


@dataclass(frozen=True)
class Judgement:
    """What COCO's evaluation says of detections.

    Attributes:
        figures: COCO's twelve, 0 to 1; NaN if the data has no object of that size.
        class_ap: AP of each class, 0 to 1; NaN for a class without objects.
        precision: precision at the recalls 0, 0.01, ..., 1 at IoU 0.5, the mean of the classes; empty without objects.
        mistakes: of each image, the objects that were missed and the false detections of a score of 0.5 or more, at IoU
            0.5.
    """

    figures: dict[str, float]
    class_ap: list[float]
    precision: list[float]
    mistakes: list[float]


def average_precision(record: BoxRecord, results: Sequence[dict[str, Any]], kind: str = "bbox") -> dict[str, float]:
    """COCO's twelve figures, as in `Judgement`."""
    return judge(record, results, kind).figures


def judge(record: BoxRecord, results: Sequence[dict[str, Any]], kind: str = "bbox") -> Judgement:
    """COCO's evaluation of detections.

    Args:
        record: the split's objects.
        results: in COCO's results format: image_id, category_id, score, and bbox or segmentation.
        kind: bbox or segm.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # the area of the mask counts, not that of its box
    left_out = "bbox" if kind == "segm" else "segmentation"
    found = [{key: value for key, value in result.items() if key != left_out} for result in results]
    # NumPy may not tell large ids apart
    images = {scene.id: number for number, scene in enumerate(record.scenes, 1)}
    classes = {key: number for number, key in enumerate(record.category_ids, 1)}
    scenes = [replace(scene, id=images[scene.id]) for scene in record.scenes]
    record = replace(record, scenes=scenes, category_ids=list(classes.values()))
    for result in found:
        result |= {"image_id": images[result["image_id"]], "category_id": classes[result["category_id"]]}
    content = record.to_coco()
    # objects are told apart by their ids, which not every format has, and a match with 0 would count as none
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        # loadRes can't take an empty list
        nothing = COCO()
        nothing.dataset = {**content, "annotations": []}
        nothing.createIndex()
        judge = COCOeval(truth, truth.loadRes(found) if found else nothing, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # IoU thresholds, recalls, classes, areas (the first is all), most detections (the last is 100); -1 without objects
    precision = judge.eval["precision"][:, :, :, 0, -1]
    present = (precision[0, 0] > -1).tolist()
    places = {key: place for place, key in enumerate(judge.params.catIds)}
    class_ap = [
        float(precision[:, :, places[key]].mean()) if present[places[key]] else float("nan")
        for key in record.category_ids
    ]
    return Judgement(
        figures={
            name: float(value) if value >= 0 else float("nan") for name, value in zip(FIGURES, judge.stats, strict=True)
        },
        class_ap=class_ap,
        precision=precision[0][:, present].mean(1).tolist() if any(present) else [],
        mistakes=_mistakes(record, judge),
    )


def _mistakes(record: BoxRecord, judge: Any) -> list[float]:
    """Missed objects and false detections of each image, from the matches that COCO's evaluation made."""
    counts: dict[int, int] = defaultdict(int)
    everything = judge.params.areaRng[0]
    for item in judge.evalImgs:
        if item is None or item["aRng"] != everything:
            continue
        sure = {key for key, score in zip(item["dtIds"], item["dtScores"], strict=True) if score >= _SURE}
        misses = sum(
            not ignored and match not in sure
            for match, ignored in zip(item["gtMatches"][0].tolist(), item["gtIgnore"], strict=True)
        )
        false = sum(
            key in sure and not match and not ignored
            for key, match, ignored in zip(
                item["dtIds"], item["dtMatches"][0].tolist(), item["dtIgnore"][0].tolist(), strict=True
            )
        )
        counts[item["image_id"]] += misses + false
    return [float(counts[scene.id]) for scene in record.scenes]
