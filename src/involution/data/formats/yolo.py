"""YOLO's text files: a line for each object, class and box or polygon in shares of the image's sides."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from involution.data.box_files import check_files
from involution.data.boxes import Box, BoxRecord, Scene, box_complaint
from involution.data.errors import DataError
from involution.data.fields import unread
from involution.data.findings import Findings, some
from involution.data.pair_folders import PairFolders, find_pairs
from involution.data.paths import ARCHIVES, as_stored, need_folder, why_unreadable
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.run_lengths import mask_area
from involution.data.splits import no_split, words_of
from involution.data.text import nfc, one_list, read_lines, read_names, read_text
from involution.data.walk import images_below
from involution.data.yaml import YamlError, parse_yaml

_NAMES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "classes.json")
# settings of data.yaml and obj.data that are read besides the splits, or that change nothing
_SETTINGS = (
    *("path", "names", "nc", "kpt_shape", "flip_idx"),
    *("roboflow", "author", "description", "date", "version", "license", "url", "docs"),
)
# shares may reach this far out of the image, as rounding makes them
_SLACK = 0.01
# fewer lines may be triangles by chance
_LEAST_TRACKED = 3


class _Split(NamedTuple):
    images: list[Path]
    root: Path
    # the folders of images and labels where they were found by their names
    folders: PairFolders | None = None


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.box_dataset import complete_splits, detection_data
    from involution.data.labelled import tell_numbered

    root, findings = Path(path), Findings()
    if not root.is_file() or root.suffix.lower() in ARCHIVES:
        need_folder(root)
    file = root if root.is_file() else _settings_file(root)
    root = root.parent if root.is_file() else root
    content: dict[str, Any] = {}
    outside: list[Path] = []
    if file is not None:
        findings.saw(file)
        content = _settings(file)
        root, base = _folders_of(root, file, content, findings)
        classes, splits, outside = _from_settings(root, base, file, content, findings)
    else:
        classes, splits = _classes(root, findings), _from_folders(root, findings)
    if options.only and "all" not in splits and options.only not in splits:
        raise no_split(root, options.only, splits)
    if "all" not in splits and not options.only:
        # a folder of val that the settings do not name is a mistake, none at all is not
        unnamed = "val" not in splits and "val" in _by_name(root)
        missing = [split for split in ("train", "val") if split not in splits and (split == "train" or unnamed)]
        if missing:
            raise DataError(
                f"{root}: no images of {' and '.join(missing)}; found those of {', '.join(splits) or 'none'}"
            )
    if options.only and "all" not in splits:
        splits = {options.only: splits[options.only]}
    records: dict[str, BoxRecord] = {}
    first, texts = 1, _Labels()
    for split, found in splits.items():
        try:
            records[split] = _read(split, found, classes, texts, findings, options, first)
        except DataError as error:
            # test images are often given without their labels
            if split != "test" or options.only:
                raise
            findings.note(f"{error}; test is left out")
        first += len(found.images)
    texts.tell_unused(findings)
    texts.check_names(classes, root, findings)
    if "kpt_shape" not in content:
        texts.key_points.refuse(root)
    records = complete_splits(records, findings, options)
    tell_numbered(classes, findings)
    return detection_data(spec, root, records, findings, options, "images outside the splits", outside)


def _settings_file(root: Path) -> Path | None:
    files = [file for name in ("data.yaml", "data.yml", "dataset.yaml", "obj.data") if (file := root / name).is_file()]
    return files[0] if files else None


def _classes(root: Path, findings: Findings) -> list[str]:
    files = [root / name for name in _NAMES if (root / name).is_file()]
    if files:
        findings.saw(*files)
        return one_list(files, lambda file: read_names(file, least=1))
    raise DataError(f"{root}: no class names; wanted data.yaml with names, or classes.txt with one name per line")


def _settings(file: Path) -> dict[str, Any]:
    """What a YAML file, or Darknet's obj.data with its lines of ``train = train.txt``, says."""
    text = read_text(file)
    if file.suffix == ".data":
        pairs = [[part.strip() for part in line.split("=", 1)] for line in text.split("\n") if "=" in line]
        settings = dict(pairs)
        if len(settings) < len(pairs):
            raise DataError(f"{file}: says something twice: {some([key for key, _ in pairs], len(pairs))}")
        return settings
    try:
        content = parse_yaml(text, plain=False)
    except YamlError as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: wanted settings such as names, train and val")
    if content.get("kpt_shape"):
        raise DataError(f"{file}: has key points (kpt_shape), which the detectors here do not learn")
    if "names" in content:
        content["names"] = _numbers_as_written(content["names"], parse_yaml(text, as_written=True)["names"])
    return content


def _numbers_as_written(names: Any, written: Any) -> Any:
    """Class names where numbers are the text that they are in the file, for 010 would be 8."""
    if isinstance(names, dict) and isinstance(written, dict):
        values = _numbers_as_written([*names.values()], [*written.values()])
        return dict(zip(names, values, strict=True))
    # entries can also be merged from elsewhere
    if not isinstance(names, list) or not isinstance(written, list) or len(names) != len(written):
        return names
    pairs = zip(names, written, strict=True)
    return [text if isinstance(name, int | float) and not isinstance(name, bool) else name for name, text in pairs]


def _tell_settings(content: dict[str, Any], file: Path, findings: Findings) -> None:
    """Say which settings are not read.

    Raises:
        DataError: for one that makes other labels of those in the files.
    """
    if content.get("single_cls"):
        raise DataError(
            f"{file}: single_cls makes one class of all; give names one name and every label the number 0, or remove it"
        )
    channels = content.get("channels", 3)
    if channels != 3:
        findings.note(f"{file.name}: channels is {channels}, but images are read in colour, with 3")
    darknet = ("classes", "backup", "results", "eval") if file.suffix == ".data" else ()
    known = (*_SETTINGS, *darknet, "channels", *(str(key) for key in content if words_of(str(key)).split))
    if others := unread(content, known):
        findings.ignore(f"settings of {file.name}", *others)


def _folders_of(root: Path, file: Path, content: dict[str, Any], findings: Findings) -> tuple[Path, Path]:
    """The folder of a data set with settings, and the one that their places are told from: there, or inside it."""
    given = content.get("path")
    # a path on the machine of the export is passed over
    if given and (root / str(given)).is_dir():
        base = root / str(given)
        if base.resolve().is_relative_to(root.resolve()):
            return root, base
        findings.note(f"{file.name}: its path {given} is taken, so that images and labels are those there")
        return base, base
    if given:
        findings.note(f"{file.name}: its path {given} is no folder here; {root} is taken instead")
    return root, root


def _from_settings(
    root: Path, base: Path, file: Path, content: dict[str, Any], findings: Findings
) -> tuple[list[str], dict[str, _Split], list[Path]]:
    """The classes and splits that settings tell, and the folders of images outside the data set's own."""
    _tell_settings(content, file, findings)
    splits: dict[str, _Split] = {}
    outside: list[Path] = []
    by_name = _by_name(root)
    for split in SPLITS:
        keys = [str(key) for key in content if words_of(str(key)).split == split and content[key]]
        if len(keys) > 1:
            raise DataError(f"{file}: {' and '.join(keys)} both stand for {split}; keep one of them")
        places = content[keys[0]] if keys else None
        if places:
            given = places if isinstance(places, list) else [places]
            if split == "test" and not any(_find_place(place, base, file) for place in given):
                # exporters name one that they do not write
                findings.note(f"{file.name}: its test, {given[0]}, is not there")
                continue
            found = [_place(place, base, file) for place in given]
            _tell_outside(given, found, base, file, findings)
            outside += [place for place in found if place.is_dir() and not _inside(place, root)]
            images = [image for place in found for image in _images(place, base, findings)]
            splits[split] = _Split(images, base, by_name.get(split))
    if list(splits) == ["train"] and not {"val", "test"} & set(by_name):
        # as CVAT exports a single task
        splits = {"all": splits["train"]}
    if file.suffix == ".data":
        names = _place(content.get("names", "obj.names"), base, file)
        findings.saw(names)
        classes = read_names(names, least=1)
        if content.get("classes", str(len(classes))) != str(len(classes)):
            raise DataError(f"{file}: classes is {content['classes']}, but {names.name} has {len(classes)} names")
        return classes, splits, outside
    classes = _yaml_names(content, file)
    beside = dict.fromkeys(place / name for place in (root, file.parent) for name in ("classes.txt", "obj.names"))
    for other in filter(Path.is_file, beside):
        findings.saw(other)
        if read_names(other, least=1) != classes:
            raise DataError(f"{file} and {other.name} name the classes differently; keep one of them")
    return classes, splits, outside


def _inside(place: Path, root: Path) -> bool:
    """Whether a folder is in another, or is seen there by a link."""
    return place.resolve().is_relative_to(root.resolve()) or Path(os.path.abspath(place)).is_relative_to(
        os.path.abspath(root)
    )


def _by_name(root: Path) -> dict[str, PairFolders]:
    try:
        return find_pairs(root, Findings())
    except DataError:
        # the settings say which
        return {}


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
    # YAML reads no as a truth value
    if wrong := [repr(name) for name in names if not isinstance(name, str)]:
        raise DataError(
            f"{file}: names must be texts, got {some(wrong)}; put them into quotes, such as 'no', which is a "
            "truth value to YAML"
        )
    found = [nfc(str(name).strip()) for name in names]
    if len(set(found)) < len(found) or not all(found):
        raise DataError(f"{file}: wanted different class names, got {some(found, 5)}")
    if "nc" in content and content["nc"] != len(found):
        raise DataError(f"{file}: nc is {content['nc']}, but there are {len(found)} names")
    return found


def _place(place: object, base: Path, file: Path) -> Path:
    """The folder or list of images that a setting names."""
    found = _find_place(place, base, file)
    if found is None:
        raise DataError(f"{file}: no such folder or list of images: {place}")
    return found


def _find_place(place: object, base: Path, file: Path) -> Path | None:
    """The folder or list of that name; exporters write ../train/images for train/images."""
    text = str(place).replace("\\", "/")
    parts = [part for part in PurePosixPath(text).parts if part not in ("..", ".", "/")]
    # of a path on another machine, or below Darknet's data/, the last parts are right
    shorter = [Path(*parts[start:]) for start in range(len(parts))]
    candidates = (base / text, file.parent / text, *(base / inner for inner in shorter))
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _tell_outside(given: Sequence[object], found: Sequence[Path], base: Path, file: Path, findings: Findings) -> None:
    """Say which places are outside the data set while it has ones of the same names."""
    for place, taken in zip(given, found, strict=True):
        parts = [part for part in PurePosixPath(str(place).replace("\\", "/")).parts if part not in ("..", ".", "/")]
        own = base / Path(*parts)
        # a link inside the data set may lead anywhere
        if own.exists() and not own.samefile(taken) and not taken.resolve().is_relative_to(base.resolve()):
            findings.note(f"{file.name}: its {place} is taken as {taken.resolve()}, not as {own}")


def _images(place: Path, base: Path, findings: Findings) -> list[Path]:
    if place.is_dir():
        return images_below(place)
    findings.saw(place)
    names = [line.replace("\\", "/") for line in read_lines(place) if line]
    found = [(name, _listed(name, place, base)) for name in names]
    missing = [name for name, file in found if file is None]
    if missing:
        raise DataError(f"{place}: no such images: {some(missing)}")
    return [file for _, file in found if file is not None]


def _listed(name: str, place: Path, base: Path) -> Path | None:
    """The image that a line of a list means; of a path on another machine the last parts are right."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", ".", "/")]
    shorter = (base / Path(*parts[start:]) for start in range(len(parts)))
    candidates = (as_stored(file) for file in (place.parent / name, base / name, *shorter))
    return next((file for file in candidates if file.is_file()), None)


def _from_folders(root: Path, findings: Findings) -> dict[str, _Split]:
    """Splits by the names of folders, or all images, split by chance later."""
    pairs = find_pairs(root, findings)
    if set(pairs) == {"train"}:
        pairs = {"all": pairs["train"]}
    if not pairs:
        pairs = {"all": PairFolders(root, None)}
    return {split: _Split(images_below(pair.images), root, pair) for split, pair in pairs.items()}


class _Labels:
    """The text files of labels below the folders that are asked for, by their names without the suffix."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}
        # the splits whose labels a folder has
        self.splits: dict[Path, set[str]] = {}
        self.key_points = _KeyPoints()

    def tell_unused(self, findings: Findings) -> None:
        """Say which files of labels beside those in use belong to no image."""
        for folder, splits in self.splits.items():
            files = [file for file in self._inside(folder).values() if os.path.abspath(file) not in findings.seen]
            unused = [file for file in files if file.name not in _NAMES]
            if unused:
                what = f"labels of {', '.join(splits)}" if len(splits) == 1 and "all" not in splits else "labels"
                findings.ignore(f"{what} without an image", *[file.name for file in unused])
                findings.saw(*unused)

    def check_names(self, classes: Sequence[str], root: Path, findings: Findings) -> None:
        """Compare the lists of names that LabelImg writes beside the labels with the data set's own.

        Raises:
            DataError: for a list in another order: its labels mean other classes.
        """
        for folder in self.splits:
            for file in (folder / name for name in _NAMES if folder != root and (folder / name).is_file()):
                findings.saw(file)
                names = read_names(file, least=1)
                # it may end early, as the classes were met
                if names != list(classes[: len(names)]):
                    raise DataError(
                        f"{file} names the classes differently ({some(names)}) from the data set "
                        f"({some(classes)}); correct the labels beside it, or remove it if it is wrong"
                    )

    def _inside(self, folder: Path) -> dict[str, Path]:
        """The text files of a folder; the suffix may be in upper case."""
        if folder not in self._folders:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            self._folders[folder] = {nfc(file.stem): file for file in files if file.suffix.lower() == ".txt"}
        return self._folders[folder]

    def of(self, image: Path, folders: PairFolders | None) -> Path:
        """The file of an image's objects, or where it should be.

        It is beside the image, or in labels/ where the image is in images/, or in the folder that the names of the
        split's folders tell.
        """
        wanted: list[Path] = []
        places = [place for place, part in enumerate(image.parts[:-1]) if part.lower() == "images"]
        if places:
            parts = list(image.parts)
            parts[places[-1]] = "labels"
            wanted.append(Path(*parts).parent)
        if folders and folders.labels and image.is_relative_to(folders.images):
            wanted.append((folders.labels / image.relative_to(folders.images)).parent)
        wanted.append(image.parent)
        # some tools keep the suffix: a.png.txt
        found = (self._inside(folder).get(nfc(name)) for name in (image.stem, image.name) for folder in wanted)
        return next((file for file in found if file), wanted[0] / f"{image.stem}.txt")


def _read(
    split: str,
    found: _Split,
    classes: Sequence[str],
    texts: _Labels,
    findings: Findings,
    options: Options,
    first: int,
) -> BoxRecord:
    if not found.images:
        where = found.folders.images if found.folders else found.root
        raise DataError(
            f"{where}: no images{'' if split == 'all' else f' for {split}'}; an export may come without them"
        )
    owners: dict[Path, Path] = {}
    files: list[tuple[str, Path, tuple[int, int] | None]] = []
    for image in found.images:
        labels = texts.of(image, found.folders)
        if labels in owners:
            owner = owners[labels]
            why = "is named twice" if owner == image else f"shares its labels with {owner.name}"
            findings.problem(f"{split} {image.name}", why)
            findings.saw(image)
            continue
        if os.path.lexists(labels) and (why := why_unreadable(labels, empty=True)):
            findings.problem(f"{split} {image.name}", f"its labels, {labels.name}: {why}")
            findings.saw(image, labels)
            continue
        owners[labels] = image
        files.append((f"{split} {image.name}", image, None))
    if not owners:
        findings.settle(found.root, options.on_problem)
    unlabelled = [image.name for labels, image in owners.items() if not labels.is_file()]
    if len(unlabelled) == len(owners):
        raise DataError(f"{found.root}: none of the {len(owners)} images of {split} has its text file of labels")
    if unlabelled:
        findings.note(f"{split}: images without a text file of labels, taken to show no object: {some(unlabelled)}")
    findings.saw(*owners)
    for labels in owners:
        texts.splits.setdefault(labels.parent, set()).add(split)
    sizes = check_files(files, options.reading, findings, split)
    scenes = []
    lengths: set[int] = set()
    labelled: list[str] = []
    for number, ((_, image, _), labels, size) in enumerate(zip(files, owners, sizes, strict=True), first):
        if size is not None:
            lines = [line.split() for line in read_lines(labels)] if labels.is_file() else []
            texts.key_points.see(lines)
            lengths |= {len(words) for words in lines if words}
            labelled += [labels.name] if lines else []
            boxes = _boxes(labels, lines, size, len(classes), split, findings, options.masks)
            spoiled = len(boxes) < sum(map(bool, lines))
            scenes.append(Scene(number, image, *size, tuple(boxes), spoiled=spoiled))
    if lengths == {9}:
        findings.note(
            f"{split}: objects of four points, as turned boxes are: taken are the upright boxes around them, in "
            f"{some(labelled)}"
        )
    return BoxRecord(found.root, list(classes), list(range(len(classes))), scenes)


class _KeyPoints:
    """Lines of class, box and points, as trainings on poses write them, told from those of polygons."""

    # numbers of a point, with or without whether it is visible, and the lines it takes: fewer may be polygons by chance
    kinds = ((3, 1), (2, 5))

    def __init__(self) -> None:
        self.lines = 0
        self.lengths: set[int] = set()
        self.possible = {kind for kind, _ in self.kinds}
        # whether the two numbers behind every box can be its score and the number of a track
        self.tracks = True

    def see(self, lines: Sequence[Sequence[str]]) -> None:
        """Look at the lines of a file."""
        for words in lines:
            if len(words) >= 7:
                self.lines += 1
                self.lengths.add(len(words))
                self.possible = {kind for kind in self.possible if len(self.lengths) == 1 and _has_points(words, kind)}
                self.tracks = self.tracks and len(words) == 7 and words[6].isdigit() and _has_points(words[:5], 2)

    def refuse(self, root: Path) -> None:
        """Raise `DataError` where all lines that are no boxes look like key points, or like boxes that were tracked."""
        if self.tracks and self.lines >= _LEAST_TRACKED:
            raise DataError(
                f"{root}: its lines look like a class, a box, its score and the number of a track, as predictions of "
                "videos have them; keep the first 5 numbers of each line, or, if they are triangles, say "
                "kpt_shape: null in data.yaml"
            )
        for kind, least in self.kinds:
            if kind in self.possible and self.lines >= least:
                count = (next(iter(self.lengths)) - 5) // kind
                raise DataError(
                    f"{root}: its lines look like a class, a box and {count} key points of {kind} numbers, which the "
                    "detectors here do not learn; keep the first 5 numbers of each line, or, if they are polygons, say "
                    "kpt_shape: null in data.yaml"
                )


def _has_points(words: Sequence[str], kind: int) -> bool:
    """Whether a line can be a class, a box inside the image and points of it."""
    try:
        x, y, width, height, *rest = (float(word) for word in words[1:])
    except ValueError:
        return False
    if len(rest) % kind or min(width, height) <= 0:
        return False
    far = 0.5 + _SLACK
    if abs(x - 0.5) + width / 2 > far or abs(y - 0.5) + height / 2 > far:
        return False
    if kind == 3:
        return all(seen in (0, 1, 2) for seen in rest[2::3])
    points = [point for point in zip(rest[0::2], rest[1::2], strict=True) if point != (0, 0)]
    return all(abs(a - x) <= width / 2 + _SLACK and abs(b - y) <= height / 2 + _SLACK for a, b in points)


def _boxes(
    file: Path,
    lines: Sequence[list[str]],
    size: tuple[int, int],
    num_classes: int,
    split: str,
    findings: Findings,
    masks: bool,
) -> list[Box]:
    boxes: list[Box] = []
    for number, words in enumerate(lines, 1):
        if not words:
            continue
        found = _box(words, size, num_classes, masks)
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
    mask = [points] if polygon else None
    area = mask_area(mask) if mask else None
    return box_complaint(box, width, height, _SLACK) or Box(int(label), box, area=area, mask=mask)


def _recognises(folder: Path) -> bool:
    if _settings_file(folder):
        return True
    if not any((folder / name).is_file() for name in _NAMES):
        return False
    files = (file for file in itertools.islice(folder.rglob("*"), 2000) if file.name not in _NAMES)
    return any(file.suffix.lower() == ".txt" and _is_label(file) for file in files)


def _is_label(file: Path) -> bool:
    """Whether a text file begins as labels do: five numbers or more."""
    with file.open("rb") as stream:
        words = stream.read(200).split(b"\n")[0].split()
    return len(words) >= 5 and words[0].isdigit()


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
