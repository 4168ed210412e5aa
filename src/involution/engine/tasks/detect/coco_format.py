"""Detections in COCO's results format; the one place where a label becomes the data set's category id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.box_files import size_complaint
from involution.data.errors import DataError
from involution.data.images import ImageError, Reading, look
from involution.data.text import nfc, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def coco_results(
    image_id: int,
    category_ids: Iterable[int],
    boxes: Iterable[Sequence[float]],
    scores: Iterable[float],
    masks: Tensor | NDArray[Any] | None,
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
        import numpy as np
        from pycocotools import mask as run_lengths

        on_cpu = masks.cpu() if hasattr(masks, "cpu") else masks
        for result, mask in zip(results, np.asarray(on_cpu), strict=True):
            encoded = run_lengths.encode(mask.astype("uint8", order="F"))
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return results


class ImageEntries:
    """The entries of a COCO file's images; called with the path of an image it finds its entry by the path's end.

    Args:
        file: a file with ``images``.

    Raises:
        DataError: for a file that is not COCO's.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = file
        self.entries = _items(file, "images", "file_name")
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._by_name: dict[str, list[dict[str, Any]]] = {}
        for image in self.entries:
            name = nfc(image["file_name"].replace("\\", "/"))
            for names, key in ((self._known, name), (self._by_name, name.rpartition("/")[2])):
                names.setdefault(key, []).append(image)

    def __call__(self, path: str) -> dict[str, Any]:
        """The entry of an image; raises `DataError` for one that is not in the file, or could be several."""
        parts = nfc(Path(path).as_posix()).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((self._known[end] for end in ends if end in self._known), self._by_name.get(parts[-1], []))
        if len(found) != 1:
            raise DataError(f"{path}: {len(found) or 'no'} images of this name in {self.file}")
        return found[0]

    def check(self, images: Iterable[str | Path], reading: Reading) -> list[str]:
        """Refuse images that the file can't be of.

        Args:
            images: paths of image files; what can't be read is left to others.
            reading: how they are read.

        Returns:
            Names of the file's images that are none of these.

        Raises:
            DataError: for an image without an entry of its own, or of another size than its entry says.
        """
        owners: dict[int, str | Path] = {}
        for image in images:
            entry = self(str(image))
            other = owners.setdefault(entry["id"], image)
            if other != image:
                raise DataError(f"{other} and {image} are both image {entry['id']} in {self.file}, by their names")
            size: Any = (entry.get("width"), entry.get("height"))
            if None not in size:
                with suppress(ImageError, OSError):
                    header = look(Path(image), reading)
                    if complaint := size_complaint(Path(image), size, header, reading):
                        raise DataError(f"{self.file}: {complaint}")
        return [entry["file_name"] for entry in self.entries if entry["id"] not in owners]


def category_ids(file: str | Path, classes: Sequence[str]) -> list[int] | None:
    """The ids that a COCO file has for classes, by their names; None where it has no categories.

    Raises:
        DataError: for a file that is not COCO's, or has no category of a class.
    """
    found = _items(file, "categories", "name")
    if not found:
        return None
    names = Counter(nfc(item["name"].strip()) for item in found)
    twice = next((name for name in classes if names[nfc(name)] > 1), None)
    if twice is not None:
        raise DataError(f"{file}: {names[nfc(twice)]} categories of the name {twice}; wanted one")
    ids = {nfc(item["name"].strip()): item["id"] for item in found}
    missing = [name for name in classes if nfc(name) not in ids]
    if missing:
        raise DataError(
            f"{file}: no category {', '.join(missing[:5])}; it has {', '.join(list(ids)[:5])}, the checkpoint "
            f"{', '.join(classes[:5])}: rename the categories, or leave them out to keep the checkpoint's ids"
        )
    return [ids[nfc(name)] for name in classes]


def _items(file: str | Path, key: str, name: str) -> list[dict[str, Any]]:
    """A list of a COCO file, each with a whole number as id and a name."""
    content = read_json(Path(file))
    found = content.get(key) if isinstance(content, dict) else None
    if found is None and key == "categories":
        return []
    if not isinstance(found, list):
        raise DataError(f"{file}: wanted a COCO file with a list of {key}")
    for item in found:
        if not isinstance(item, dict) or type(item.get("id")) is not int or not isinstance(item.get(name), str):
            raise DataError(f"{file}: wanted {key} with a whole number as id and a {name}, got {str(item)[:80]}")
    number, count = next(iter(Counter(item["id"] for item in found).most_common(1)), (0, 0))
    if count > 1:
        raise DataError(f"{file}: {count} {key} have the id {number}; wanted ids of their own")
    return found
