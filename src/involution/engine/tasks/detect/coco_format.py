"""Detections in COCO's results format; the one place where a label becomes the data set's category id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from involution.data.errors import DataError
from involution.data.text import read_json


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


def image_ids(file: str | Path) -> Callable[[str], int]:
    """From the path of an image to its id in a COCO file, by the end of the path.

    Args:
        file: a file with ``images``.

    Returns:
        A function that raises `DataError` for an image that is not in the file, or could be several.

    Raises:
        DataError: for a file that is not COCO's.
    """
    content = read_json(Path(file))
    try:
        known = {str(image["file_name"]).replace("\\", "/"): int(image["id"]) for image in content["images"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: wanted a COCO file with images, each with an id and a file_name ({error})") from error
    by_name: dict[str, list[int]] = {}
    for name, key in known.items():
        by_name.setdefault(name.rpartition("/")[2], []).append(key)

    def find(path: str) -> int:
        parts = Path(path).as_posix().split("/")
        for start in range(len(parts)):
            if "/".join(parts[start:]) in known:
                return known["/".join(parts[start:])]
        found = by_name.get(parts[-1], [])
        if len(found) != 1:
            raise DataError(f"{path}: {len(found) or 'no'} images of this name in {file}")
        return found[0]

    return find
