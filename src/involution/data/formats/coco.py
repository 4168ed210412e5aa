"""COCO's instances format, checked before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from involution.data.boxes import Box, BoxRecord, Scene, box_complaint
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.images import CHECK_LIMIT, ImageError, check_image
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.run_lengths import is_number, mask_complaint
from involution.data.text import read_json

# what an annotation is known by, and what is made of it
Categories = Mapping[int, str]


def open_coco_folder(spec: str, path: Path, options: Options) -> DataSet[Any]:
    """Open a folder with ``annotations/instances_*.json`` whose names begin with train and val.

    The images are in ``PATH/NAME`` or ``PATH/images/NAME``; NAME is what follows ``instances_``: train2017, val, …
    """
    from involution.data.box_dataset import detection_data

    findings = Findings()
    records = {split: read_split(path, split, findings, options.masks) for split in ("train", "val")}
    return detection_data(spec, path, records, findings, options)


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    return open_coco_folder(spec, Path(path), options)


def read_split(root: Path, split: str, findings: Findings, masks: bool = False) -> BoxRecord:
    """Read and check one split; what is malformed goes to the findings."""
    file, folder = _find(root, split)
    content = _parse(file)
    categories = _categories(file, content["categories"])
    order = sorted(categories)
    label_of = {category: label for label, category in enumerate(order)}
    images = _images(content["images"], folder, split, findings)
    boxes: dict[int, list[Box]] = {key: [] for key in images}
    left_out = {_id(item) for item in content["images"] if _id(item) not in images}
    seen: set[Any] = set()
    for item in content["annotations"]:
        reason = _complaint(item, images, left_out, categories, seen, masks)
        if reason:
            findings.problem(f"{split} annotation {_id(item)}", reason)
        elif reason is None:
            boxes[item["image_id"]].append(_box(item, label_of, masks))
    scenes = [
        Scene(key, folder / item["file_name"], item["width"], item["height"], tuple(boxes[key]))
        for key, item in images.items()
    ]
    return BoxRecord(file, [categories[key] for key in order], order, scenes)


def _box(item: Mapping[str, Any], label_of: Mapping[int, int], masks: bool) -> Box:
    return Box(
        label_of[item["category_id"]],
        tuple(item["bbox"]),
        bool(item.get("iscrowd", 0)),
        item.get("area"),
        item["segmentation"] if masks else None,
        item["id"],
    )


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
    content = read_json(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: not COCO's instances format: no list of {key}")
    found: dict[str, list[Any]] = content
    return found


def _categories(file: Path, items: list[Any]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int) or not isinstance(item.get("name"), str):
            raise DataError(f"{file}: a category needs a whole number as id and a name, got {str(item)[:80]}")
        if item["id"] in categories:
            raise DataError(f"{file}: two categories have the id {item['id']}")
        categories[item["id"]] = item["name"]
    if not categories:
        raise DataError(f"{file}: no categories")
    return categories


def _id(item: Any) -> Any:
    key = item.get("id") if isinstance(item, dict) else None
    return key if isinstance(key, int | str) else "without an id"


def _images(items: list[Any], folder: Path, split: str, findings: Findings) -> dict[int, dict[str, Any]]:
    images: dict[int, dict[str, Any]] = {}
    check: Callable[[Any], str | None] = _image_complaint(folder, len(items) <= CHECK_LIMIT)
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(check, items))
    for item, reason in zip(items, reasons, strict=True):
        if reason is None and item["id"] in images:
            reason = "its id appears twice"
        if reason:
            findings.problem(f"{split} image {_id(item)}", reason)
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
    if not is_number(item.get("area", 0)) or item.get("iscrowd", 0) not in (0, 1):
        return "wanted a number as area and 0 or 1 as iscrowd"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
        return f"bbox wants four numbers, got {str(box)[:80]}"
    width, height = images[image_id]["width"], images[image_id]["height"]
    x, y, box_width, box_height = box
    reason = box_complaint((x, y, box_width, box_height), width, height)
    return reason or (mask_complaint(item.get("segmentation"), height, width) if masks else None)


def _recognises(folder: Path) -> bool:
    return any((folder / "annotations").glob("instances_*.json"))


register(
    Format(
        name="coco",
        task="detect",
        syntax="coco:PATH",
        description="annotations/instances_train*.json and instances_val*.json, images in folders of their names",
        open=_open,
        recognises=_recognises,
    )
)
