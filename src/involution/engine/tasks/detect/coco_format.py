"""Detections in COCO's results format; the one place where a label becomes the data set's category id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def coco_results(
    image_id: int,
    category_ids: Iterable[int],
    boxes: Iterable[Sequence[float]],
    scores: Iterable[float],
    masks: Tensor | None,
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format.

    Args:
        image_id: the image's id.
        category_ids: of each detection, the data set's id.
        boxes: of each detection, x1, y1, x2, y2 in pixels.
        scores: of each detection, 0 to 1.
        masks: [n, H, W] (bool), or None.
    """
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for category, (x1, y1, x2, y2), score in zip(category_ids, boxes, scores, strict=True)
    ]
    if masks is not None:
        from pycocotools import mask as run_lengths

        for result, mask in zip(results, masks.cpu().numpy(), strict=True):
            encoded = run_lengths.encode(mask.astype("uint8", order="F"))
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return results
