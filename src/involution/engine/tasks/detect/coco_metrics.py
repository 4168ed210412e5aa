"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
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


def average_precision(record: BoxRecord, results: Sequence[dict[str, Any]], kind: str = "bbox") -> dict[str, float]:
    """COCO's twelve figures, 0 to 1; NaN if the data has no object of that size.

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
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = record.to_coco()
        truth.createIndex()
        if not found:
            present = {item["category_id"] for item in truth.dataset["annotations"]}
            return dict.fromkeys(FIGURES, 0.0 if present else float("nan"))
        judge = COCOeval(truth, truth.loadRes(found), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {
        name: float(value) if value >= 0 else float("nan") for name, value in zip(FIGURES, judge.stats, strict=True)
    }
