"""COCO's instances format, checked before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from involution.data.box_files import ImageNames, check_files
from involution.data.boxes import Box, BoxRecord, Scene, box_complaint
from involution.data.coco_boxes import tell_strange_boxes
from involution.data.errors import DataError
from involution.data.fields import tell_unread, unread
from involution.data.findings import Findings, some
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.run_lengths import is_number, mask_area, mask_complaint
from involution.data.text import nfc, read_json

# what is read of each part of a file, and what changes nothing: where images come from, how classes are drawn and named
# in other ways, and what belongs to key points, which are told of by themselves
_KNOWN: dict[str, tuple[str, ...]] = {
    "file": ("images", "annotations", "categories", "info", "licenses", "type"),
    "images": (
        *("id", "file_name", "width", "height", "split"),
        *("license", "date_captured", "flickr_url", "coco_url"),
    ),
    "annotations": (
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation", "score", "bbox_mode"),
        *("keypoints", "num_keypoints", "attributes.rotation"),
    ),
    "categories": (
        *("id", "name", "supercategory", "color", "keypoints", "skeleton"),
        *("synset", "synonyms", "def", "image_count", "instance_count", "frequency"),
    ),
}


def open_coco_folder(spec: str, path: Path, options: Options) -> DataSet[Any]:
    """Open a folder in one of the layouts of `find_files`."""
    from involution.data.box_dataset import complete_splits, detection_data
    from involution.data.coco_layouts import find_files

    findings = Findings()
    files = find_files(path, findings, options.only or "train")
    if options.only and options.only in files:
        files = {options.only: files[options.only]}
    names = {split: ImageNames(found.folders) for split, found in files.items()}
    records = {split: read_split(found.file, names[split], split, findings, options) for split, found in files.items()}
    findings.saw(*[found.file for found in files.values()])
    records = complete_splits(records, findings, options)
    return detection_data(spec, path, records, findings, options, "images without an entry in the annotations")


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    return open_coco_folder(spec, Path(path), options)


def read_split(file: Path, names: ImageNames, split: str, findings: Findings, options: Options) -> BoxRecord:
    """Read and check one annotation file; what is malformed goes to the findings.

    Args:
        file: the annotation file.
        names: finds its images.
        split: what entries are told by: ``train image 7``.
        findings: told of what can't be used.
        options: how it is opened.
    """
    content = _parse(file)
    categories = _categories(file, content["categories"])
    order = sorted(categories)
    label_of = {category: label for label, category in enumerate(order)}
    _tell_fields(content, split, findings)
    scenes = _images(content["images"], names, split, findings, options)
    boxes: dict[int, list[Box]] = {key: [] for key in scenes}
    left_out = {_id(item) for item in content["images"] if _id(item) not in scenes}
    seen: set[Any] = set()
    tell_strange_boxes(file, content["annotations"], split, findings)
    items = content["annotations"]
    posed = [f"annotation {_id(item)}" for item in items if isinstance(item, dict) and item.get("keypoints")]
    if posed:
        findings.note(f"{split}: key points are not used: {some(posed)}")
    unmeasured: list[str] = []
    spoiled: set[int] = set()
    for item in content["annotations"]:
        reason = _complaint(item, scenes, left_out, categories, seen, options.masks)
        if reason:
            findings.problem(f"{split} annotation {_id(item)}", reason)
            spoiled |= {key for key in scenes if isinstance(item, dict) and key == item.get("image_id")}
        elif reason is None:
            unmeasured += [] if "area" in item else [f"annotation {item['id']}"]
            boxes[item["image_id"]].append(_box(item, label_of, scenes[item["image_id"]], options.masks))
    if unmeasured:
        findings.note(
            f"{split}: objects without an area, by which COCO's figures count small and large ones; that of the mask "
            f"is taken, or of the box where there is none: {some(unmeasured)}"
        )
    whole = [replace(scene, boxes=tuple(boxes[key]), spoiled=key in spoiled) for key, scene in scenes.items()]
    return BoxRecord(file, [categories[key] for key in order], order, whole)


def _tell_fields(content: Mapping[str, Any], split: str, findings: Findings) -> None:
    """Say which fields of the file and of its entries are not read."""
    for part, known in _KNOWN.items():
        counts: Counter[str] = Counter()
        for item in [content] if part == "file" else content[part]:
            counts.update(unread(item, known))
        tell_unread(counts, f"fields of {'the file' if part == 'file' else part}", split, findings)


def _box(item: Mapping[str, Any], label_of: Mapping[int, int], scene: Scene, masks: bool) -> Box:
    area, mask = item.get("area"), item.get("segmentation")
    if area is None and mask and mask_complaint(mask, scene.height, scene.width) is None:
        area = mask_area(mask)
    return Box(
        label_of[item["category_id"]],
        tuple(item["bbox"]),
        # as converters of Pascal VOC write what it calls difficult
        bool(item.get("iscrowd", 0) or item.get("ignore", 0)),
        area,
        mask if masks else None,
        item["id"],
    )


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
        name = nfc(item["name"].strip())
        if name in categories.values():
            raise DataError(f"{file}: two categories have the name {name!r}; merge them, or rename one")
        categories[item["id"]] = name
    if not categories:
        raise DataError(f"{file}: no categories")
    return categories


def _id(item: Any) -> Any:
    key = item.get("id") if isinstance(item, dict) else None
    return key if isinstance(key, int | str) else "without an id"


def _images(items: list[Any], names: ImageNames, split: str, findings: Findings, options: Options) -> dict[int, Scene]:
    """The images that can be used by their ids, still without boxes."""
    files: list[tuple[str, Path, tuple[int, int] | None]] = []
    # ids and splits
    ids: list[tuple[int, str]] = []
    owner: dict[Path, int] = {}
    known: set[int] = set()
    unsized: list[str] = []
    names.expect(item.get("file_name") for item in items if isinstance(item, dict))
    for item in items:
        found = _image_file(item, names)
        if not isinstance(found, Path):
            findings.problem(f"{split} image {_id(item)}", found)
        elif item["id"] in known:
            findings.problem(f"{split} image {item['id']}", "its id appears twice")
            findings.saw(found)
        elif found in owner:
            findings.problem(f"{split} image {item['id']}", f"the same file as image {owner[found]}: {found.name}")
        else:
            owner[found] = item["id"]
            size = (item["width"], item["height"]) if item.get("width") is not None else None
            unsized += [] if size else [found.name]
            files.append((f"{split} image {item['id']}", found, size))
            ids.append((item["id"], str(item.get("split") or "")))
            known.add(item["id"])
    names.tell(findings, split)
    if unsized:
        findings.note(
            f"{split}: images without width and height in the annotations, taken from the files: {some(unsized)}"
        )
    sizes = check_files(files, options.reading, findings, split)
    return {
        key: Scene(key, file, *size, (), own)
        for (key, own), (_, file, _), size in zip(ids, files, sizes, strict=True)
        if size is not None
    }


def _image_file(item: Any, names: ImageNames) -> Path | str:
    """The file of an entry, or what is wrong with it."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), int):
        return "no whole number as id"
    size = (item.get("width"), item.get("height"))
    if size != (None, None) and not all(isinstance(side, int) and side > 0 for side in size):
        return f"width and height {size} are not whole numbers above 0"
    return names.find(item.get("file_name"))


def _complaint(
    item: Any,
    images: Mapping[int, Scene],
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
        return f"unknown image {str(image_id)[:80]}{_of_another_type(image_id, images, left_out)}"
    if not isinstance(category_id, int) or category_id not in categories:
        return f"unknown category {str(category_id)[:80]}"
    key = item.get("id")
    if not isinstance(key, int) or key in seen:
        return "no whole number as id" if not isinstance(key, int) else "its id appears twice"
    seen.add(key)
    flags = (item.get("iscrowd", 0), item.get("ignore", 0))
    if not is_number(item.get("area", 0)) or not all(flag in (0, 1) for flag in flags):
        return "wanted a number as area, and 0 or 1 as iscrowd and ignore"
    # as Detectron2 has it, where 1 is what COCO's format means
    if item.get("bbox_mode", 1) not in (1, "XYWH_ABS"):
        return f"bbox_mode {item['bbox_mode']!r}: wanted left, top, width and height in pixels as bbox"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
        return f"bbox wants four numbers, got {box!r:.80}"
    width, height = images[image_id].width, images[image_id].height
    x, y, box_width, box_height = box
    reason = box_complaint((x, y, box_width, box_height), width, height)
    return reason or (mask_complaint(item.get("segmentation"), height, width) if masks else None)


def _of_another_type(image_id: Any, images: Mapping[int, Scene], left_out: set[Any]) -> str:
    """A hint where an id is text and that of its image a number, or the other way round."""
    if isinstance(image_id, str) and image_id.isdecimal() and len(image_id) < 20 and int(image_id) in images:
        return ": image_id is text, the image's id is a number; write both as numbers"
    if isinstance(image_id, int) and str(image_id) in left_out:
        return ": image_id is a number, the image's id is text; write both as numbers"
    if isinstance(image_id, float) and image_id in images:
        return ": ids are whole numbers, and this has a point; write it without"
    return ""


def _recognises(folder: Path) -> bool:
    from involution.data.coco_layouts import find_files, is_coco

    try:
        return any(is_coco(found.file) for found in find_files(folder, Findings(), None).values())
    except (DataError, OSError):
        return False


register(
    Format(
        name="coco",
        task="detect",
        syntax="coco:PATH",
        description="annotations/instances_train*.json and instances_val*.json, images in folders of their names; "
        "or as Roboflow, CVAT and Label Studio export it",
        open=_open,
        recognises=_recognises,
    )
)
