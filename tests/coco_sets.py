"""Small data sets in COCO's format."""

import json

import numpy as np
import PIL.Image

from involution.data.registry import Options, open_data

SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}]


def annotation(key, image, category, box, segmentation, iscrowd=0):
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": segmentation,
        "area": box[2] * box[3],
        "iscrowd": iscrowd,
    }


def content(split):
    first, count = (1, 3) if split == "train" else (100, 2)
    column = {"size": [48, 64], "counts": [0, 48, 3024]}
    return {
        "images": [{"id": first + i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(count)],
        "annotations": [
            annotation(1, first, 90, [10, 5, 20, 20], SQUARE),
            annotation(2, first, 1, [40, 30, 24.5, 18], SQUARE),
            annotation(3, first, 1, [0, 0, 9, 9], column, iscrowd=1),
            annotation(4, first + 1, 13, [0, 0, 9, 9], column),
        ],
        "categories": CATEGORIES,
    }


def folder_of_coco(tmp_path):
    """Three images of train and two of val, with boxes and masks."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        for i in range(3):
            pixels = np.full((48, 64, 3), i * 40, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / f"{split}2017" / f"{i}.png")
        write(tmp_path, split, content(split))
    return tmp_path


def write(root, split, data):
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(data))


def open_root(root, **options):
    return open_data("detect", f"coco:{root}", Options(**options))


def small(count=4, first=1):
    """Annotations of some images of 64 x 48, a box in each."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(first, first + count)]
    outline = [[4, 5, 24, 5, 24, 35, 4, 35]]
    boxes = [annotation(i, image["id"], 1, [4, 5, 20, 30], outline) for i, image in enumerate(images, 1)]
    categories = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def pictures(folder, numbers, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        PIL.Image.new("RGB", (64, 48), (i, i, i)).save(folder / f"{i}{suffix}.png")
