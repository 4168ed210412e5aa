"""YOLO's text files: a line for each object, class and box or polygon in shares of the image's sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from involution.data.box_files import check_files
from involution.data.boxes import Box, BoxRecord, Scene, box_complaint
from involution.data.errors import DataError
from involution.data.findings import Findings, some
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import SPLIT_NAMES
from involution.data.text import read_lines, read_names, read_text
from involution.data.walk import images_below
from involution.data.yaml import YamlError, parse_yaml

_NAMES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "classes.json")
# shares may reach this far out of the image, as rounding makes them
_SLACK = 0.01


class _Split(NamedTuple):
    images: list[Path]
    root: Path


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.box_dataset import detection_data, split_record

    root, findings = Path(path), Findings()
    if not root.exists():
        raise DataError(f"no such folder: {root}")
    file = root if root.is_file() else _yaml(root)
    root = root.parent if root.is_file() else root
    classes, splits = _from_yaml(root, file, findings) if file else (_classes(root), _from_folders(root, findings))
    wanted = (options.only,) if options.only else ("train", "val")
    if "all" not in splits:
        missing = [split for split in wanted if split not in splits]
        if missing:
            raise DataError(
                f"{root}: no images of {' and '.join(missing)}; found those of {', '.join(splits) or 'none'}"
            )
        splits = {split: found for split, found in splits.items() if not options.only or split == options.only}
    records: dict[str, BoxRecord] = {}
    first = 1
    for split, found in splits.items():
        records[split] = _read(split, found, classes, findings, options, first)
        first += len(found.images)
    if "all" in records:
        records = split_record(records["all"], findings, options)
    return detection_data(spec, root, records, findings, options)


def _yaml(root: Path) -> Path | None:
    files = [file for name in ("data.yaml", "data.yml", "dataset.yaml") if (file := root / name).is_file()]
    return files[0] if files else None


def _classes(root: Path) -> list[str]:
    for name in _NAMES:
        if (root / name).is_file():
            return read_names(root / name, least=1)
    raise DataError(f"{root}: no class names; wanted data.yaml with names, or classes.txt with one name per line")


def _from_yaml(root: Path, file: Path, findings: Findings) -> tuple[list[str], dict[str, _Split]]:
    try:
        content = parse_yaml(read_text(file))
    except YamlError as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: wanted settings such as names, train and val")
    if "kpt_shape" in content:
        raise DataError(f"{file}: has key points (kpt_shape), which the detectors here do not learn")
    base = (
        root / str(content["path"])
        if (root / str(content.get("path") or ".")).is_dir() and content.get("path")
        else root
    )
    splits: dict[str, _Split] = {}
    for split in SPLITS:
        places = content.get(split) or content.get(SPLIT_NAMES[split][1])
        if places:
            found = [_place(place, base, file) for place in (places if isinstance(places, list) else [places])]
            images = [image for place in found for image in _images(place, findings, root)]
            splits[split] = _Split(images, base)
    return _yaml_names(content, file), splits


def _yaml_names(content: dict[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise DataError(
                f"{file}: names wants the numbers 0 to {len(names) - 1}, got {some([str(key) for key in names])}"
            )
        names = [names.get(number, names.get(str(number))) for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: no names; wanted a list of class names")
    # YAML reads a bare 7 as a number, and no as a truth value
    if not all(isinstance(name, str | int | float) and not isinstance(name, bool) for name in names):
        raise DataError(f"{file}: names must be strings, got {some([repr(name) for name in names])}")
    found = [str(name).strip() for name in names]
    if len(set(found)) < len(found) or not all(found):
        raise DataError(f"{file}: wanted different class names, got {some(found, 5)}")
    if "nc" in content and content["nc"] != len(found):
        raise DataError(f"{file}: nc is {content['nc']}, but there are {len(found)} names")
    return found


def _place(place: object, base: Path, file: Path) -> Path:
    """The folder or list of images that a setting names; exporters write ../train/images for train/images."""
    text = str(place).replace("\\", "/")
    stripped = PurePosixPath(*[part for part in PurePosixPath(text).parts if part not in ("..", ".", "/")])
    for candidate in (base / text, file.parent / text, base / stripped):
        if candidate.exists():
            return candidate
    raise DataError(f"{file}: no such folder or list of images: {place}")


def _images(place: Path, findings: Findings, root: Path) -> list[Path]:
    if place.is_dir():
        return images_below(place, findings, root)
    files = [Path(line) if Path(line).is_absolute() else place.parent / line for line in read_lines(place) if line]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{place}: no such images: {some(missing)}")
    return files


def _from_folders(root: Path, findings: Findings) -> dict[str, _Split]:
    """Splits by folders: images/train or train/images or train, or images alone, split by chance later."""
    splits: dict[str, _Split] = {}
    for split in SPLITS:
        for name in SPLIT_NAMES[split]:
            places = (root / "images" / name, root / name / "images", root / name)
            found = next((place for place in places if place.is_dir()), None)
            if found:
                splits[split] = _Split(images_below(found, findings, root), root)
                break
    if not splits:
        flat = next((place for place in (root / "images", root / "obj_train_data") if place.is_dir()), root)
        splits["all"] = _Split(images_below(flat, findings, root), root)
    return splits


def label_file(image: Path) -> Path:
    """The file of an image's objects: beside it, or in labels/ where the image is in images/."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        place = len(parts) - 2 - parts[-2::-1].index("images")
        other = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
        if other.is_file() or not image.with_suffix(".txt").is_file():
            return other
    return image.with_suffix(".txt")


def _read(
    split: str, found: _Split, classes: Sequence[str], findings: Findings, options: Options, first: int
) -> BoxRecord:
    if not found.images:
        raise DataError(f"{found.root}: no images in {split}")
    owners: dict[Path, Path] = {}
    files: list[tuple[str, Path, tuple[int, int] | None]] = []
    for image in found.images:
        labels = label_file(image)
        if labels in owners:
            findings.problem(f"{split} {image.name}", f"shares its labels with {owners[labels].name}")
            continue
        owners[labels] = image
        files.append((f"{split} {image.name}", image, None))
    unlabelled = [image.name for labels, image in owners.items() if not labels.is_file()]
    if len(unlabelled) == len(owners):
        raise DataError(f"{found.root}: none of the {len(owners)} images of {split} has its text file of labels")
    if unlabelled:
        findings.note(f"{split}: images without a text file of labels, taken to show no object: {some(unlabelled)}")
    _tell_unused(owners, split, findings)
    sizes = check_files(files, options.reading, findings, split)
    scenes = []
    for number, ((_, image, _), labels, size) in enumerate(zip(files, owners, sizes, strict=True), first):
        if size is not None:
            boxes = _boxes(labels, size, len(classes), split, findings, options.masks) if labels.is_file() else []
            scenes.append(Scene(number, image, *size, tuple(boxes)))
    return BoxRecord(found.root, list(classes), list(range(len(classes))), scenes)


def _tell_unused(owners: dict[Path, Path], split: str, findings: Findings) -> None:
    folders = {labels.parent for labels in owners if labels.parent.is_dir()}
    unused = [
        file.name
        for folder in sorted(folders)
        for file in sorted(folder.glob("*.txt"))
        if file not in owners and file.name not in _NAMES
    ]
    if unused:
        findings.ignore(f"labels of {split} without an image", *unused)


def _boxes(
    file: Path, size: tuple[int, int], num_classes: int, split: str, findings: Findings, masks: bool
) -> list[Box]:
    boxes: list[Box] = []
    for number, line in enumerate(read_lines(file), 1):
        if not line:
            continue
        found = _box(line.split(), size, num_classes, masks)
        if isinstance(found, str):
            findings.problem(f"{split} {file.name} line {number}", found)
        else:
            boxes.append(found)
    return boxes


def _box(words: list[str], size: tuple[int, int], num_classes: int, masks: bool) -> Box | str:
    """The object of a line, or what is wrong with it."""
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return f"wanted numbers, got {' '.join(words)[:80]}"
    if label not in range(num_classes):
        return f"class {words[0]}, but there are {num_classes} names, from 0 on"
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        return f"wanted a class and 4 numbers of a box, or 3 points or more of a polygon, got {len(words)} numbers"
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        return f"wanted shares of the image from 0 to 1, got {max(values, key=abs):g}; are these pixels?"
    width, height = size
    if polygon:
        xs, ys = [x * width for x in values[0::2]], [y * height for y in values[1::2]]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    else:
        x, y, box_width, box_height = values
        box = ((x - box_width / 2) * width, (y - box_height / 2) * height, box_width * width, box_height * height)
        if masks:
            return "a box without a polygon, but masks are wanted"
    points = [coordinate for point in zip(xs, ys, strict=True) for coordinate in point] if polygon else []
    return box_complaint(box, width, height, _SLACK) or Box(int(label), box, mask=[points] if polygon else None)


def _recognises(folder: Path) -> bool:
    if _yaml(folder):
        return True
    return any((folder / name).is_file() for name in _NAMES) and not any(folder.rglob("*.json"))


register(
    Format(
        name="yolo",
        task="detect",
        syntax="yolo:PATH",
        description="data.yaml, or classes.txt next to images/ and labels/, with a text file of boxes for each image",
        open=_open,
        recognises=_recognises,
    )
)
