"""Every setting of how a data set is read must change what is read, in every task."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from involution.data.errors import DataError
from involution.data.records import item_name
from involution.data.registry import Options
from involution.engine import ClassifyConfig, DetectConfig, SegmentConfig, run
from involution.engine.settings import setting_names
from involution.engine.task import get_task

CONFIGS = {"classify": ClassifyConfig, "detect": DetectConfig, "segment": SegmentConfig}
KINDS = {"classify": "imagefolder", "detect": "coco", "segment": "masks"}
# a value of each setting, and what the data set must have for it to matter
EVERY = {
    "on_problem": ("skip", "broken"),
    "split_seed": (1, ""),
    "split_by": ("name", ""),
    "split_copies": ("apart", "copies"),
    "exif": ("ignore", ""),
    "value_range": ((0.0, 4095.0), ""),
    "allow_empty": (True, "empty"),
}
CHANGES = {
    "classify": {**EVERY, "classes": ("names.json", "")},
    "detect": {**EVERY, "background": (False, "")},
    "segment": {**EVERY, "ignore_index": (7, "void"), "values": ({0: "lesion", 1: "background"}, "")},
}
NUMBER = 8


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def fill(folder):
    """Images of one size: plain ones, one that EXIF turns upside down, one of 12 bits."""
    folder.mkdir(parents=True)
    for number in range(NUMBER):
        PIL.Image.fromarray(pixels(number)).save(folder / f"{number}.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.fromarray(pixels(50)).save(folder / "turned.png", exif=exif)
    PIL.Image.fromarray(pixels(60)[..., 0].astype(np.uint16) * 16).save(folder / "deep.png")
    return sorted(folder.glob("*.png"))


def make(task, root, extra):
    if task == "classify":
        for name in ("ant", "bee"):
            fill(root / name)
        if extra == "empty":
            (root / "unicorn").mkdir()
        if extra == "copies":
            for name in "abcdef":
                shutil.copy(root / "bee" / "0.png", root / "bee" / f"{name}.png")
        if extra == "broken":
            (root / "bee" / "broken.png").write_bytes(b"words")
        return
    files = fill(root / "images")
    for name in "abcdef" if extra == "copies" else "":
        files.append(Path(shutil.copy(root / "images" / "0.png", root / "images" / f"{name}.png")))
    if extra == "broken":
        (root / "images" / "broken.png").write_bytes(b"words")
        files.append(root / "images" / "broken.png")
    if task == "detect":
        images = [{"id": n, "file_name": file.name, "width": 16, "height": 12} for n, file in enumerate(files, 1)]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 5, 6]} for n in range(2, len(files) + 1)]
        names = ["cat", "unicorn"] if extra == "empty" else ["cat"]
        categories = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "result.json").write_text(json.dumps(content))
        return
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\nlesion\n")
    for file in files:
        labels = np.zeros((12, 16), np.uint8)
        labels[2:6, 3:9] = extra != "empty"
        labels[0] = 7 if extra == "void" else 0
        PIL.Image.fromarray(labels).save(root / "masks" / file.name)


def facts(task, root, changes):
    """All that is read of a data set, or why it is not."""
    # exact shares, so that every part has images of every kind
    settings = {f"data.{name}": value for name, value in {"split_by": "draw", **changes}.items()}
    config = CONFIGS[task].load(None, {"data.spec": f"{KINDS[task]}:{root}", **settings})
    try:
        data = run.open_data(get_task(task), config)
    except DataError as error:
        return str(error)
    found = [data.classes, data.findings.lines()]
    for name, part in data.parts.items():
        for place in range(len(part)):
            image, target = part[place]
            found.append((name, item_name(part, place), np.asarray(image).tolist(), str(target)))
    return found


@pytest.mark.parametrize("task", CONFIGS)
def test_no_setting_is_forgotten(task):
    known = {f"data.{item.name}" for item in dataclasses.fields(Options)} & set(setting_names(CONFIGS[task]))
    assert known == {f"data.{name}" for name in CHANGES[task]}


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, names in CHANGES.items() for name in names])
def test_setting_changes_what_is_read(task, name, tmp_path):
    value, extra = CHANGES[task][name]
    make(task, tmp_path / "data", extra)
    if name == "classes":
        (tmp_path / value).write_text('{"ant": "x", "bee": "y"}')
        value = str(tmp_path / value)
    before = facts(task, tmp_path / "data", {})
    assert before == facts(task, tmp_path / "data", {})
    assert facts(task, tmp_path / "data", {name: value}) != before
    # what is refused as it is, is read with the setting
    assert isinstance(facts(task, tmp_path / "data", {name: value}), list)


def of(found, ending):
    return [np.array(item[2]) for item in found[2:] if item[1].endswith(ending)]


@pytest.mark.parametrize("task", CONFIGS)
def test_pixels_are_those_that_the_settings_say(task, tmp_path):
    make(task, tmp_path / "data", "")
    plain = facts(task, tmp_path / "data", {})
    for image in of(plain, "turned.png"):
        assert np.array_equal(image if task == "classify" else image.transpose(1, 2, 0), pixels(50)[::-1, ::-1])
    stored = facts(task, tmp_path / "data", {"exif": "ignore"})
    for image in of(stored, "turned.png"):
        assert np.array_equal(image if task == "classify" else image.transpose(1, 2, 0), pixels(50))
    wanted = pixels(60)[..., 0].astype(float) * 16
    for settings, high in (({}, 65535), ({"value_range": (0.0, 4095.0)}, 4095)):
        for image in of(facts(task, tmp_path / "data", settings), "deep.png"):
            assert np.array_equal(image if task == "classify" else image[0], (wanted * (255 / high)).round())
