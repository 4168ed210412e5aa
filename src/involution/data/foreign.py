"""Data sets in formats that are not read, known by their files, so that an error says what to make of them."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# files that are looked at, and how deep; of how many of one kind the beginning is read, and how much of it
_FILES, _DEEP, _READ, _HEAD = 3000, 4, 3, 4096
_BOXES = "convert its boxes to COCO's, Pascal VOC's or YOLO's format"
_MAPS = "make a label map in PNG of each image (masks:FOLDER)"
_FOLDERS = "sort the images into a folder for each class (imagefolder:FOLDER)"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
# a corner each, the class, and perhaps whether it is difficult; class and 14 numbers, perhaps a score
_DOTA = re.compile(rf"(?:{_NUMBER}\s+){{8}}[A-Za-z][\w-]*(?:\s+\d)?")
_KITTI = re.compile(rf"[A-Za-z]\w*(?:\s+{_NUMBER}){{14,15}}")
_MAP = re.compile(r"(.+)_(?:mask|seg|label|gt)\.(?:png|tiff?|bmp)", re.IGNORECASE)
# columns that name an image, a class, boxes or run lengths, in lower case without what stands between words
_IMAGES = {
    "id",
    "image",
    "images",
    "imageid",
    "imagename",
    "filename",
    "file",
    "filepath",
    "path",
    "img",
    "imgname",
    "name",
}
_LABELS = {"label", "labels", "class", "classname", "classid", "category", "categoryid", "target", "breed", "diagnosis"}
_CORNERS = ({"xmin", "ymin"}, {"x1", "y1"}, {"bbox"}, {"predictionstring"}, {"left", "top"})
_LENGTHS = {"encodedpixels", "rle", "rlemask", "segmentation", "annotation"}


class _Folder(NamedTuple):
    """The files in and below a folder: paths within it, and beginnings of those that are text."""

    names: list[str]
    heads: dict[str, str]

    def has(self, pattern: str) -> bool:
        """Whether one of the paths matches."""
        return any(re.search(pattern, name, re.IGNORECASE) for name in self.names)

    def says(self, suffix: str, *words: str) -> str:
        """The first file with this suffix that begins with all these words somewhere; "" for none."""
        fitting = (name for name, head in self.heads.items() if name.lower().endswith(suffix))
        return next((name for name in fitting if all(word in self.heads[name] for word in words)), "")


def foreign(folder: Path) -> str:
    """What a folder surely holds that no format here reads, and what to make of it; "" for nothing that is known.

    Example:
        >>> foreign(Path("no/such/folder"))
        ''
    """
    found = _look(folder)
    return next(filter(None, (known(found) for known in _KNOWN)), "")


def _look(folder: Path) -> _Folder:
    names = list(itertools.islice(_below(folder, 0), _FILES))
    heads: dict[str, str] = {}
    for suffix in (".json", ".csv", ".txt", ".jsonl"):
        fitting = [name for name in names if name.lower().endswith(suffix)]
        for name in fitting[:_READ]:
            try:
                with (folder / name).open("rb") as file:
                    heads[name] = file.read(_HEAD).decode("utf-8", "replace").lstrip("\ufeff")
            except OSError:
                continue
    return _Folder(names, heads)


def _below(folder: Path, depth: int) -> Iterator[str]:
    """The files in and below a folder, those above first, a few of each folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    inner = []
    for entry in entries[: _FILES // 10]:
        if entry.is_dir(follow_symlinks=False):
            inner.append(entry.name)
            yield f"{entry.name}/"
        else:
            yield entry.name
    for name in inner if depth < _DEEP else ():
        yield from (f"{name}/{below}" for below in _below(folder / name, depth + 1))


def _tables(found: _Folder) -> str:
    for name, head in found.heads.items():
        # those are to be filled in
        if not name.lower().endswith(".csv") or "submission" in name.lower():
            continue
        line = head.split("\n", 1)[0]
        mark = max(",;\t", key=line.count)
        columns = {re.sub(r"[\W_]", "", cell.lower()) for row in csv.reader([line], delimiter=mark) for cell in row}
        if "regionshapeattributes" in columns:
            return f"{name} is the VGG Image Annotator's; {_BOXES}, or export COCO from there"
        if {"imageid", "labelname"} <= columns:
            boxes = columns & {"xmin"}
            return f"{name} is Open Images'; {_BOXES if boxes else _FOLDERS}"
        if any(corners <= columns for corners in _CORNERS):
            return f"{name} is a table of boxes; {_BOXES}"
        if columns & _IMAGES and columns & _LENGTHS:
            return f"{name} is a table of run lengths; {_MAPS}"
        if {"r", "g", "b"} <= columns or {"red", "green", "blue"} <= columns:
            return (
                f"{name} has the colours of classes; put them into classes.txt, a line each, such as: road 128 64 128"
            )
        # an id or a name may be that of a class
        if columns & _IMAGES and (columns & _LABELS or (len(columns) > 1 and columns & _IMAGES - {"id", "name"})):
            return f"{name} is a table of labels; {_FOLDERS}"
    return ""


def _texts(found: _Folder) -> str:
    for name, head in found.heads.items():
        lines = [line.strip() for line in head.split("\n")[:-1] or [head] if ":" not in line and line.strip()]
        if not name.lower().endswith(".txt") or not lines:
            continue
        for pattern, what in ((_DOTA, "four corners of turned boxes, as DOTA has them"), (_KITTI, "KITTI's boxes")):
            if all(pattern.fullmatch(line) for line in lines):
                upright = "upright " if pattern is _DOTA else ""
                return f"{name} has {what}; {_BOXES.replace('its ', f'its {upright}', 1)}"
    return ""


def _elsewhere(found: _Folder) -> str:
    """A file in COCO's format where nobody looks for it."""
    name = found.says(".json", '"images"', '"file_name"')
    return (
        f"{name} is in COCO's format; move it to annotations/instances_train.json, or _val"
        if name.count("/") > 1
        else ""
    )


def _beside(found: _Folder) -> str:
    """Label maps that lie beside their images."""
    stems = {os.path.splitext(name)[0] for name in found.names}
    maps = [name for name in found.names if (match := _MAP.fullmatch(name)) and {match[1], f"{match[1]}_sat"} & stems]
    if len(maps) < 2:
        return ""
    return (
        f"{maps[0]} is a label map beside its image; move such maps to labels/, beside images/, under the names of "
        "their images"
    )


def _by(what: str, then: str, names: str = "", suffix: str = "", words: Iterable[str] = ()) -> Callable[[_Folder], str]:
    """A rule by the paths of files, or by the beginning of one."""

    def known(found: _Folder) -> str:
        file = found.says(suffix, *words) if suffix else ""
        if suffix and file:
            return f"{file} is {what}; {then}"
        return f"it looks like {what}; {then}" if names and found.has(names) else ""

    return known


# the first that fits
_KNOWN: tuple[Callable[[_Folder], str], ...] = (
    _by("LabelMe's", f"{_BOXES}, or its polygons to label maps (masks:FOLDER)", suffix=".json", words=('"shapes"',)),
    _by("the VGG Image Annotator's", f"export COCO from there, or {_BOXES}", suffix=".json", words=('"_via_',)),
    _by(
        "the VGG Image Annotator's",
        f"export COCO from there, or {_BOXES}",
        suffix=".json",
        words=('"regions"', '"shape_attributes"'),
    ),
    _by("Supervisely's", f"export COCO from there, or {_BOXES}", suffix=".json", words=('"classTitle"',)),
    _by("Create ML's", _BOXES, suffix=".json", words=('"coordinates"', '"annotations"')),
    _by("CrowdHuman's (.odgt)", _BOXES, names=r"\.odgt$"),
    _by("WIDER FACE", _BOXES, names=r"wider_face\w*_bbx_gt\.txt$"),
    _by("ADE20K as it is unpacked", _MAPS, names=r"_parts_1\.png$"),
    _by("MVTec AD, where training has the class good alone", _FOLDERS, names=r"(^|/)ground_truth/.*_mask\.png$"),
    _by("a data set of TensorFlow (TFRecord)", "write its images into folders", names=r"\.tfrecord(-|$)"),
    _by("a data set of Hugging Face (Arrow)", "write its images into folders", names=r"\.arrow$"),
    _by(
        "tables in Parquet",
        "write their images into folders for each class, or into shards; `predict --parts` alone reads them",
        names=r"\.parquet$",
    ),
    _by("a data set in LMDB or MXNet's records", "write its images into folders", names=r"(data\.mdb|\.rec)$"),
    _by("medical volumes (NIfTI, DICOM)", "save their slices as PNG", names=r"\.(nii|nii\.gz|dcm|dicom|mha|nrrd)$"),
    _by("Mapillary Vistas", f"{_MAPS}, such as those in labels/", names=r"/v\d\.\d/labels/"),
    _beside,
    _elsewhere,
    _texts,
    _tables,
    _by("metadata of Hugging Face's imagefolder", f"{_FOLDERS}, or {_BOXES}", suffix=".jsonl", words=('"file_name"',)),
)
