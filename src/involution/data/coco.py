"""Detection data in COCO's format: images with boxes and masks, checked before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.errors import SKIP_HINT, DataError, in_words, nearest
from involution.data.folders import CHECK_LIMIT
from involution.data.images import ImageError, check_image, read_image
from involution.data.scenes import SCENES_FOLDER, make_digit_scenes

# boxes may reach this many pixels beyond the image, as rounding makes COCO's own do; they are cut there
_SLACK = 2.0


@dataclass(frozen=True)
class Problem:
    """What is wrong with one entry of an annotation file.

    Attributes:
        entry: ``image 17``, ``annotation 305``.
        reason: what is wrong with it.
    """

    entry: str
    reason: str


@dataclass
class CocoData:
    """The images of one split with their annotations.

    Attributes:
        root: folder of the images.
        file: the annotation file.
        images: entries of the file by image id.
        annotations: per image id, the annotations that are whole.
        category_ids: the file's category ids in ascending order; a label is a place in this list.
        classes: their names.
        problems: entries that were left out.
    """

    root: Path
    file: Path
    images: dict[int, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    category_ids: list[int]
    classes: list[str]
    problems: list[Problem] = field(default_factory=list)


class CocoDataset(Dataset[Any]):
    """Images and targets as torchvision's detectors and transforms v2 want them.

    An item is an image (``tv_tensors.Image``, uint8, [3, H, W]) and a dict: ``boxes`` (``BoundingBoxes`` [n, 4],
    x1 y1 x2 y2 in pixels), ``labels`` [n] from 0, ``image_id``, and with ``masks`` ``tv_tensors.Mask`` [n, H, W].
    Regions marked as crowds are left out.

    Args:
        data: one split.
        masks: decode the masks, too.
        annotated_only: leave out images without annotations, as training on COCO does.
    """

    def __init__(self, data: CocoData, masks: bool = False, annotated_only: bool = False) -> None:
        self.data = data
        self.masks = masks
        self.label_of = {category: label for label, category in enumerate(data.category_ids)}
        self.ids = [key for key in data.images if not annotated_only or self._annotations(key)]
        if not self.ids:
            raise DataError(f"{data.file}: no images{' with annotations' if annotated_only else ''}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        key = self.ids[index]
        entry = self.data.images[key]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(self.data.root / entry["file_name"]).convert("RGB")))
        size = (entry["height"], entry["width"])
        if tuple(image.shape[1:]) != size:
            path = self.data.root / entry["file_name"]
            raise ImageError(
                f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but its annotations are for {size[1]} x {size[0]}"
            )
        found = self._annotations(key)
        boxes = torch.tensor([item["bbox"] for item in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self.label_of[item["category_id"]] for item in found], dtype=torch.int64),
            "image_id": key,
        }
        if self.masks:
            masks = [decode_mask(item["segmentation"], *size) for item in found]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return image, target

    def _annotations(self, key: int) -> list[dict[str, Any]]:
        return [item for item in self.data.annotations[key] if not item.get("iscrowd")]


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray[Any, Any]:
    """A mask [H, W] of 0 and 1 from COCO's polygons, or its plain or compressed run lengths."""
    from pycocotools import mask as run_lengths

    if isinstance(segmentation, list):
        encoded = run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = run_lengths.frPyObjects(segmentation, height, width)
    else:
        encoded = {"size": [height, width], "counts": segmentation["counts"].encode("ascii")}
    mask: np.ndarray[Any, Any] = run_lengths.decode(encoded)
    return mask


def open_coco(spec: str, *, on_problem: str = "refuse", masks: bool = False) -> dict[str, CocoData]:
    """Open a detection data set.

    Args:
        spec: ``coco:PATH``, a folder with ``annotations/instances_*.json`` whose names begin with train and val, and
            the images in ``PATH/NAME`` or ``PATH/images/NAME`` (NAME is what follows ``instances_``: train2017, val,
            …); or ``digit-scenes``, the embedded data set, composed once into ``data/digit-scenes``
            (``digit-scenes:PATH`` for another folder).
        on_problem: ``refuse`` a file with malformed entries, or ``skip`` these entries; either way all of them are
            reported.
        masks: check the masks, too.

    Returns:
        ``train`` and ``val``, with the same categories.

    Raises:
        DataError: for an unknown source, missing or broken files, or malformed entries that are not to be skipped.
    """
    if on_problem not in ("refuse", "skip"):
        raise DataError(f"on_problem must be refuse or skip, got {on_problem!r}")
    kind, _, path = spec.partition(":")
    if kind == "digit-scenes":
        root = make_digit_scenes(path or SCENES_FOLDER)
    elif kind == "coco":
        if not path:
            raise DataError("coco needs a path: coco:PATH")
        root = Path(path)
    else:
        known = ("coco", "digit-scenes")
        raise DataError(f"no detection data set named {kind!r} (there are {', '.join(known)}){nearest(kind, known)}")
    parts = {split: read_coco(root, split, on_problem, masks) for split in ("train", "val")}
    ids = {split: dict(zip(part.category_ids, part.classes, strict=True)) for split, part in parts.items()}
    if ids["train"] != ids["val"]:
        raise DataError(f"{root}: train and val have different categories ({len(ids['train'])} and {len(ids['val'])})")
    return parts


def read_coco(root: Path, split: str, on_problem: str = "refuse", masks: bool = False) -> CocoData:
    """Read and check one split; see `open_coco`."""
    file, folder = _find(root, split)
    content = _parse(file)
    categories: dict[int, str] = {}
    for item in content["categories"]:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int) or not isinstance(item.get("name"), str):
            raise DataError(f"{file}: a category needs a whole number as id and a name, got {str(item)[:80]}")
        if item["id"] in categories:
            raise DataError(f"{file}: two categories have the id {item['id']}")
        categories[item["id"]] = item["name"]
    if not categories:
        raise DataError(f"{file}: no categories")
    problems: list[Problem] = []
    images = _images(content["images"], folder, problems)
    annotations: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
    left_out = {_id(item) for item in content["images"] if _id(item) not in images}
    seen: set[Any] = set()
    for item in content["annotations"]:
        reason = _complaint(item, images, left_out, categories, seen, masks)
        if reason:
            problems.append(Problem(f"annotation {_id(item)}", reason))
        elif reason is None:
            annotations[item["image_id"]].append(item)
    if problems and on_problem == "refuse":
        raise DataError(f"{report(file, problems)}. {SKIP_HINT}")
    order = sorted(categories)
    return CocoData(folder, file, images, annotations, order, [categories[key] for key in order], problems)


def report(file: Path, problems: list[Problem]) -> str:
    """Malformed entries of a file in words, the first of them by name."""
    return f"{file}: {in_words([f'{problem.entry}: {problem.reason}' for problem in problems], 'malformed entries')}"


def _find(root: Path, split: str) -> tuple[Path, Path]:
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{root}: wanted one annotations/instances_{split}*.json, found {found}")
    name = files[0].stem.removeprefix("instances_")
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return files[0], folder
    raise DataError(f"{root}: no folder {name}/ or images/{name}/ with the images of {files[0].name}")


def _parse(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: broken JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: not COCO's instances format: no list of {key}")
    found: dict[str, list[Any]] = content
    return found


def _id(item: Any) -> Any:
    key = item.get("id") if isinstance(item, dict) else None
    return key if isinstance(key, int | str) else "without an id"


def _images(items: list[Any], folder: Path, problems: list[Problem]) -> dict[int, dict[str, Any]]:
    images: dict[int, dict[str, Any]] = {}
    check: Callable[[Any], str | None] = _image_complaint(folder, len(items) <= CHECK_LIMIT)
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(check, items))
    for item, reason in zip(items, reasons, strict=True):
        if reason is None and item["id"] in images:
            reason = "its id appears twice"
        if reason:
            problems.append(Problem(f"image {_id(item)}", reason))
        else:
            images[item["id"]] = item
    return images


def _image_complaint(folder: Path, open_files: bool) -> Callable[[Any], str | None]:
    def complain(item: Any) -> str | None:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int):
            return "no whole number as id"
        name = item.get("file_name")
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            return f"file_name {name!r} is no path below the folder of images"
        size = (item.get("width"), item.get("height"))
        if not all(isinstance(side, int) and side > 0 for side in size):
            return f"width and height {size} are not whole numbers above 0"
        path = folder / name
        if not path.is_file():
            return f"no such file: {path}"
        return _file_complaint(path, (item["width"], item["height"])) if open_files else None

    return complain


def _file_complaint(path: Path, size: tuple[int, int]) -> str | None:
    try:
        found = check_image(path)
    except ImageError as error:
        return str(error)
    if found != size:
        return f"{path.name} has {found[0]} x {found[1]} pixels, not {size[0]} x {size[1]}"
    return None


def _complaint(
    item: Any,
    images: Mapping[int, Any],
    left_out: set[Any],
    categories: Mapping[int, str],
    seen: set[Any],
    masks: bool,
) -> str | None:
    """What is wrong with an annotation, None for nothing, "" for one of an image that was complained about."""
    if not isinstance(item, dict):
        return "not an object"
    image_id, category_id = item.get("image_id"), item.get("category_id")
    if isinstance(image_id, int | str) and image_id in left_out:
        return ""
    if not isinstance(image_id, int) or image_id not in images:
        return f"unknown image {str(image_id)[:80]}"
    if not isinstance(category_id, int) or category_id not in categories:
        return f"unknown category {str(category_id)[:80]}"
    key = item.get("id")
    if not isinstance(key, int) or key in seen:
        return "no whole number as id" if not isinstance(key, int) else "its id appears twice"
    seen.add(key)
    image = images[image_id]
    if not _is_number(item.get("area", 0)) or item.get("iscrowd", 0) not in (0, 1):
        return "wanted a number as area and 0 or 1 as iscrowd"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"bbox wants four numbers, got {str(box)[:80]}"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"box of zero area: {box}"
    if min(x, y) < -_SLACK or x + width > image["width"] + _SLACK or y + height > image["height"] + _SLACK:
        return f"box {box} reaches out of an image of {image['width']} x {image['height']}"
    if min(x + width, image["width"]) <= max(x, 0) or min(y + height, image["height"]) <= max(y, 0):
        return f"box {box} lies outside an image of {image['width']} x {image['height']}"
    return _mask_complaint(item.get("segmentation"), image) if masks else None


def _is_number(value: Any) -> bool:
    # neither NaN nor infinite, nor a whole number that no float can be
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


def _mask_complaint(segmentation: Any, image: Mapping[str, Any]) -> str | None:
    height, width = image["height"], image["width"]
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            return f"run lengths of size {segmentation.get('size')} for an image of [{height}, {width}] (height, width)"
        counts = segmentation.get("counts")
        if not isinstance(counts, list | str):
            return "run lengths without counts"
        # pycocotools would show whatever lies in memory where a compressed mask ends early
        runs = counts if isinstance(counts, list) else _expand(counts)
        if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
            return f"run lengths that don't add up to {height} x {width} pixels"
        return None
    whole = isinstance(segmentation, list) and segmentation
    if not whole or not all(
        isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 and all(map(_is_number, ring))
        for ring in segmentation
    ):
        return "no mask: wanted polygons of at least three points, or run lengths"
    # drawing a line takes memory by its length
    if any(
        not -side <= value <= 2 * side
        for ring in segmentation
        for values, side in ((ring[0::2], width), (ring[1::2], height))
        for value in values
    ):
        return f"a polygon reaches far out of an image of {width} x {height}"
    return None


def _expand(text: str) -> list[int]:
    """Return the runs of COCO's compressed form, a negative one where it is broken.

    A number is written in groups of five bits, the lowest first, each a character from "0" on; 32 says that another
    group follows, 16 in the last one that it is negative. From the third run on it is the difference to the last but
    one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 50:
            return [-1]
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return [-1] if shift else runs
