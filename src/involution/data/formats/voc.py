"""Pascal VOC's XML files, one for each image."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

from involution.data.box_files import check_files
from involution.data.boxes import Box, BoxRecord, Scene, box_complaint
from involution.data.coco_boxes import TAKEN
from involution.data.errors import DataError
from involution.data.fields import tell_unread, unread
from involution.data.findings import Findings, some
from involution.data.images import EXTENSIONS
from involution.data.paths import as_stored, need_folder
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import listed_splits, name_splits, no_split, words_of
from involution.data.text import nfc, one_list, read_lines, read_names, read_text
from involution.data.walk import subfolders

_IMAGES = ("jpegimages", "images")
# elements of a file and of its objects that are read, or that change nothing
_KNOWN = ("filename", "size", "object", "folder", "path", "relpath", "source", "owner", "segmented", "verified")
_OF_OBJECTS = (
    *("name", "bndbox.xmin", "bndbox.ymin", "bndbox.xmax", "bndbox.ymax", "difficult", "deleted", "part"),
    "attributes.rotation",
    *("pose", "id", "type", "date", "verified"),
)
# what difficult may be, in lower case
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


@dataclass(frozen=True)
class _Page:
    """What one XML file says."""

    file: Path
    # what it calls its image, and the file
    name: str
    image: Path | None
    size: tuple[int, int] | None
    # whether the boxes are turned by an angle that CVAT writes beside them
    turned: bool
    # whether objects have parts with boxes of their own, as Pascal VOC's people have
    parts: bool
    # whether objects are marked as deleted, as LabelMe keeps them
    deleted: bool
    # fields that are not read, of the file and of its objects
    others: Counter[str]
    # class, corners, difficult
    objects: list[tuple[str, tuple[float, float, float, float], bool]]


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.box_dataset import complete_splits, detection_data

    root, findings = Path(path), Findings()
    need_folder(root)
    if options.masks:
        raise DataError(
            f"{spec}: Pascal VOC's boxes have no masks; use a detector without masks, or coco or yolo with polygons"
        )
    files = _find(root, options.only, findings)
    # classes and the first pixel are decided by all splits, so that an evaluation of one reads it as the training did
    everything = {split: _pages(found, split, findings, options.only) for split, found in files.items()}
    classes = _classes(root, everything, findings)
    first = _first_pixel([page for found in everything.values() for page in found], findings)
    pages = {split: found for split, found in everything.items() if options.only in (None, split) or split == "all"}
    records: dict[str, BoxRecord] = {}
    number = 1
    for split, found in pages.items():
        records[split] = _record(root, split, found, classes, first, number, findings, options)
        number += len(found)
    records = complete_splits(records, findings, options)
    _tell_unlisted(root, findings)
    return detection_data(spec, root, records, findings, options, "images without an XML file that is used")


def _tell_unlisted(root: Path, findings: Findings) -> None:
    """Say which XML files no list names."""
    pages = _annotations(root)
    unlisted = [file for file in _xml_files(pages) if os.path.abspath(file) not in findings.seen]
    if unlisted:
        findings.ignore("XML files in no list that is used", *[file.name for file in unlisted])
        findings.saw(*unlisted)


def _xml_files(folder: Path, deep: bool = False) -> list[Path]:
    """The XML files in a folder, or also below it, sorted; the suffix may be in upper case."""
    files = folder.rglob("*") if deep else folder.glob("*")
    return sorted(file for file in files if file.suffix.lower() == ".xml" and not file.name.startswith("."))


def _annotations(root: Path) -> Path:
    return next((root / name for name in subfolders(root) if name.lower() == "annotations"), root)


def _find(root: Path, only: str | None, findings: Findings) -> dict[str, list[tuple[Path, list[Path]]]]:
    """XML files of each split with the folders of their images, or of ``all`` where there are no splits."""
    pages = _annotations(root)
    images = [root / name for name in subfolders(root) if name.lower() in _IMAGES] + [pages]
    lists = root / "ImageSets" / "Main"
    found: dict[str, list[tuple[Path, list[Path]]]] = {}
    listed = listed_splits([file.name for file in lists.glob("*.txt")] if lists.is_dir() else [], lists, findings)
    for split, name in listed.items():
        findings.saw(lists / name)
        found[split] = [(pages / f"{stem}.xml", images) for stem in _stems(lists / name, pages)]
    taken = Findings()
    folders = {} if found else name_splits(subfolders(root), root, taken)
    for split, name in folders.items():
        places = [root / name, *(root / name / inner for inner in subfolders(root / name) if inner.lower() in _IMAGES)]
        found[split] = [(page, places) for page in _xml_files(root / name, deep=True)]
    if any(found.values()):
        # a folder without XML files is not taken
        findings.notes += taken.notes
    inner = {} if found or pages == root else name_splits(subfolders(pages), pages, findings)
    for split, name in inner.items():
        beside = [base / other for base in images for other in subfolders(base) if words_of(other).split == split]
        found[split] = [(page, [*beside, *images]) for page in _xml_files(pages / name, deep=True)]
    if not any(found.values()):
        found = {"all": [(page, images) for page in _xml_files(pages)]}
        if not found["all"]:
            raise DataError(f"{root}: no Annotations/*.xml, and no XML files next to images")
        return found
    void = [split for split, files in found.items() if not files]
    found = {split: files for split, files in found.items() if files}
    if only and only not in found:
        raise no_split(root, only, found)
    missing = [split for split in ("train", "val") if split not in found and (split == "train" or split in void)]
    if missing and not only:
        raise DataError(f"{root}: no annotations of {' and '.join(missing)}; found those of {', '.join(found)}")
    return found


def _stems(file: Path, pages: Path) -> list[str]:
    """The names in a list, without the 1, 0 or -1 of a class behind them; a name may have spaces."""
    found = []
    for line in read_lines(file):
        first = line.rsplit(None, 1)[0] if re.search(r"\s-?[01]$", line) else line
        found += [line if as_stored(pages / f"{line}.xml").is_file() else first] if line else []
    return found


def _pages(files: Sequence[tuple[Path, list[Path]]], split: str, findings: Findings, only: str | None) -> list[_Page]:
    wanted = only in (None, split) or split == "all"
    pages: list[_Page] = []
    for file, folders in ((as_stored(file), folders) for file, folders in files):
        findings.saw(file)
        try:
            found = _page(file, folders)
        except DataError as error:
            found = str(error).removeprefix(f"{file}: ")
        if isinstance(found, _Page) and wanted and found.image is None:
            found = f"no image {found.name} or of the name {file.stem}"
        if isinstance(found, _Page) and wanted and (own := _another(found)):
            found = (
                f"says that it is of {found.name}, but there is {own.name}, too; correct its <filename>, or give the "
                "XML file the name of its image"
            )
        if isinstance(found, _Page):
            pages.append(found)
        elif wanted:
            findings.problem(f"{split} {file.name}", found)
    return pages


def _page(file: Path, folders: Sequence[Path]) -> _Page | str:
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return "declares XML entities, which no annotation needs"
    try:
        # what it says of its encoding was settled in reading
        root = ElementTree.fromstring(text.split("?>", 1)[-1] if text.lstrip().startswith("<?xml") else text)
    except ElementTree.ParseError as error:
        return f"broken XML ({error})"
    if root.tag != "annotation":
        return f"wanted an <annotation>, got <{root.tag}>"
    if twice := _twice(root, "filename", "size"):
        return f"has {twice}"
    called = (root.findtext("filename") or "").strip()
    image = _image(file, called, folders)
    size = tuple(_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    whole = all(side is not None and side > 0 for side in size)
    objects: list[Any] = []
    if len(list(root.iter("object"))) > len(root.findall("object")):
        return "has objects inside another element than <annotation>"
    deleted = 0
    for place, item in enumerate(root.findall("object"), 1):
        if (item.findtext("deleted") or "").strip() == "1":
            # LabelMe keeps what was taken back
            deleted += 1
            continue
        if twice := _twice(item, "name", "bndbox", "difficult"):
            return f"object {place} has {twice}; wanted an object for each"
        corners = tuple(_number(item.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
        name = nfc((item.findtext("name") or "").strip())
        if item.find("robndbox") is not None and item.find("bndbox") is None:
            return f"object {place} is a turned box (robndbox), which the detectors here do not learn; wanted a bndbox"
        if not name or any(value is None for value in corners):
            return f"object {place} lacks its name or the four numbers of its bndbox"
        difficult = (item.findtext("difficult") or "").strip().lower()
        if difficult not in (*_YES, *_NO):
            return f"object {place}: wanted 0 or 1 as difficult, got {difficult[:80]}"
        objects.append((name, corners, difficult in _YES))
    angles = [_number(item.findtext("value")) for item in root.iter("attribute") if item.findtext("name") == "rotation"]
    turned = any(angle and angle % 360 for angle in angles)
    parts = root.find("object/part") is not None
    sides: Any = tuple(int(side) for side in size) if whole else None  # type: ignore[arg-type]
    others = unread(_fields(root), _KNOWN)
    for item in root.findall("object"):
        others.update(unread(_fields(item), _OF_OBJECTS))
    return _Page(file, called, image, sides, turned, parts, deleted > 0, others, objects)


def _fields(item: ElementTree.Element) -> dict[str, Any]:
    """An element's own ones by name: their text, or how many are inside; those of boxes and CVAT's attributes, too."""
    found: dict[str, Any] = {inner.tag: (inner.text or "").strip() or len(inner) for inner in item}
    named = {inner.findtext("name") or "": inner.findtext("value") for inner in item.findall("attributes/attribute")}
    boxes = {inner.tag: (inner.text or "").strip() for inner in item.findall("bndbox/*")}
    return found | {"attributes": named} | ({"bndbox": boxes} if boxes else {})


def _twice(item: ElementTree.Element, *names: str) -> str:
    """Which of these elements there are several of, of which one alone would be read."""
    counts = ((len(item.findall(name)), name) for name in names)
    return next((f"{count} elements <{name}>" for count, name in counts if count > 1), "")


def _image(file: Path, name: str, folders: Sequence[Path]) -> Path | None:
    base = PureWindowsPath(name).name
    for folder in (*folders, file.parent):
        names = [base, *(f"{file.stem}{ending}" for suffix in EXTENSIONS for ending in (suffix, suffix.upper()))]
        for candidate in (as_stored(folder / name) for name in names if name):
            if candidate.is_file():
                return candidate
    return None


def _another(page: _Page) -> Path | None:
    """The image of an XML file's own name, where the file names another one that is there, too."""
    image = page.image
    if image is None or nfc(image.stem) == nfc(page.file.stem):
        return None
    endings = dict.fromkeys((image.suffix, *EXTENSIONS))
    own = (image.with_name(page.file.stem + ending) for suffix in endings for ending in (suffix, suffix.upper()))
    return next((file for file in own if file.is_file()), None)


def _is_named(page: _Page, image: Path) -> bool:
    """Whether an XML file names the image that was taken, perhaps without its ending or with another one."""
    name = nfc(PureWindowsPath(page.name).name)
    return not name or nfc(image.stem) in (name, PureWindowsPath(name).stem)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _classes(root: Path, pages: dict[str, list[_Page]], findings: Findings) -> list[str]:
    named = sorted({name for found in pages.values() for page in found for name, _, _ in page.objects})
    if not named:
        raise DataError(
            f"{root}: no objects in its XML files{f': {findings.problems[0]}' if findings.problems else ''}"
        )
    files = [root / name for name in ("classes.txt", "labels.txt", "labelmap.txt") if (root / name).is_file()]
    if files:
        findings.saw(*files)
        # objects are known by their names, so lists may have other orders
        one_list(files, lambda file: sorted(_listed(file)))
        classes = _listed(files[0])
        unknown = sorted(set(named) - set(classes))
        if unknown:
            raise DataError(f"{root}: objects of classes that {files[0].name} does not name: {some(unknown)}")
        return classes
    findings.note(f"classes as the XML files name them: {', '.join(named)}")
    return named


def _listed(file: Path) -> list[str]:
    """The names in a list; CVAT's labelmap.txt has colours behind them, and a name for no object."""
    if file.name != "labelmap.txt":
        return read_names(file, least=1)
    names = [line.split(":")[0] for line in read_lines(file) if line and not line.startswith("#")]
    return [name for name in names if name != "background"]


def _first_pixel(pages: Sequence[_Page], findings: Findings) -> int:
    """Whether the first pixel is 1, as in Pascal VOC itself, or 0, as where a corner is 0 or no whole number."""
    corners = [corner for page in pages for _, found, _ in page.objects for corner in found]
    first = 0 if any(corner < 1 or corner != int(corner) for corner in corners) else 1
    findings.note(f"boxes read as counted from {first}" + (", the last pixel included" if first else ""))
    return first


def _record(
    root: Path,
    split: str,
    pages: Sequence[_Page],
    classes: list[str],
    first: int,
    number: int,
    findings: Findings,
    options: Options,
) -> BoxRecord:
    found = [(page, page.image) for page in pages if page.image is not None]
    sizes = check_files(
        [(f"{split} {page.file.name}", image, page.size) for page, image in found], options.reading, findings, split
    )
    turned = [page.file.name for page in pages if page.turned]
    if turned:
        findings.note(f"{split}: boxes turned by an angle, {TAKEN}: {some(turned)}")
    unsized = [page.file.name for page in pages if page.size is None]
    if unsized:
        findings.note(f"{split}: XML files without the image's size, taken from the image: {some(unsized)}")
    parts = [page.file.name for page in pages if page.parts]
    if parts:
        findings.note(f"{split}: boxes of parts of objects are not used, in {some(parts)}")
    deleted = [page.file.name for page in pages if page.deleted]
    if deleted:
        findings.note(f"{split}: objects marked as deleted are not used, in {some(deleted)}")
    tell_unread(sum((page.others for page in pages), Counter()), "elements", split, findings)
    renamed = [f"{page.file.name} for {page.name}" for page, image in found if not _is_named(page, image)]
    if renamed:
        findings.note(
            f"{split}: XML files whose <filename> is not there, so the image of the XML file's own name is used: "
            f"{some(renamed)}"
        )
    scenes: list[Scene] = []
    owners: dict[Path, str] = {}
    for key, ((page, image), size) in enumerate(zip(found, sizes, strict=True), number):
        if size is None:
            continue
        if image in owners:
            findings.problem(f"{split} {page.file.name}", f"the same image as {owners[image]}: {image.name}")
            continue
        owners[image] = page.file.name
        boxes: list[Box] = []
        for name, (left, top, right, bottom), difficult in page.objects:
            box = (left - first, top - first, right - left + first, bottom - top + first)
            complaint = box_complaint(box, *size)
            if complaint:
                findings.problem(f"{split} {page.file.name}", complaint)
            else:
                # what the data set calls difficult neither counts as missed nor as wrong
                boxes.append(Box(classes.index(name), box, crowd=difficult))
        scenes.append(Scene(key, image, *size, tuple(boxes), spoiled=len(boxes) < len(page.objects)))
    return BoxRecord(root, classes, list(range(1, len(classes) + 1)), scenes)


def _recognises(folder: Path) -> bool:
    try:
        files = _find(folder, None, Findings())
    except DataError:
        return False
    return any(file for found in files.values() for file in found)


register(
    Format(
        name="voc",
        task="detect",
        syntax="voc:PATH",
        description="Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/, or XML files next to the images",
        open=_open,
        recognises=_recognises,
    )
)
