"""What a data set holds: counted, measured and compared, before anybody trains on it."""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.ImageMode
from torch.utils.data import Subset

from involution.data.box_dataset import BoxDataset
from involution.data.contents import Stored, equal_contents, pixel_number
from involution.data.errors import DataError, printable
from involution.data.families import families, is_plain
from involution.data.findings import listed, some
from involution.data.images import Header, ImageError, Reading, is_deep, look, open_pixels, read_image
from involution.data.label_code import IGNORED
from involution.data.label_maps import LabelMaps
from involution.data.labelled import labels_of
from involution.data.noticed import HARDLY_SEEN, USED, Noticed, spread
from involution.data.parts import files_of, image_of, reading_of, short_name, stored_of
from involution.data.records import DataSet, item_name
from involution.data.splits import words_of
from involution.data.tiff import bits_of

# images whose pixels are looked at for the range of their values
_FIRST = 16
# the same of an evaluation, from all over its images
_LOOKED = 64
# images whose sizes are looked at where all of them would take too long
_SIZED = 5000
# areas in pixels that COCO calls small and medium up to
_SMALL, _MEDIUM = 32**2, 96**2
# more classes are not listed one by one
_MANY = 30


@dataclass
class Split:
    """One part of a data set.

    Attributes:
        images: how many.
        classes: images, objects or pixels of each class.
        sizes: smallest, median and largest width and height.
        kinds: images by format and mode.
        channels: images by their number of channels.
        values: lowest and highest value of the first images, and the range of their type: ``"0 to 255": [3, 250]``.
        objects: boxes that are small, medium and large, as COCO has it.
        empty: images without objects.
        ignored_pixels: of label maps.
    """

    images: int
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    channels: dict[int, int] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    ignored_pixels: int = 0


@dataclass
class Survey:
    """What a data set holds.

    Attributes:
        spec: what it was opened by.
        classes: class names.
        splits: by name.
        duplicates: files of equal content by the pair of splits, `train and val`, or `train` alone: each file with the
            first that it equals.
        warnings: what is surely not meant so.
        findings: what was used and what was not, as `Findings.to_dict` gives it.
    """

    spec: str
    classes: list[str]
    splits: dict[str, Split]
    duplicates: dict[str, list[str]]
    warnings: list[str]
    findings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """All of it in words, a line each, the findings and warnings left out."""
        found = [f"{self.spec}: {len(self.classes)} class{'' if len(self.classes) == 1 else 'es'}"]
        for name, split in self.splits.items():
            found.append(
                f"{name}: {split.images:,} images" + (f", {split.empty:,} without objects" if split.empty else "")
            )
            if split.sizes:
                shown = (f"{key} {width} x {height}" for key, (width, height) in split.sizes.items())
                found.append(f"  size: {', '.join(shown)}")
            if split.kinds:
                found.append(f"  format: {', '.join(f'{kind} {count:,}' for kind, count in split.kinds.items())}")
            if split.channels:
                found.append(f"  channels: {', '.join(f'{key} in {count:,}' for key, count in split.channels.items())}")
            for room, (low, high) in split.values.items():
                found.append(f"  values: {low:g} to {high:g} of {room} in the first images")
            if split.objects:
                found.append(f"  boxes: {', '.join(f'{count:,} {size}' for size, count in split.objects.items())}")
            if split.classes:
                found.append(f"  classes: {_shares(split.classes, sum(split.classes.values()) + split.ignored_pixels)}")
            if split.ignored_pixels:
                total = sum(split.classes.values()) + split.ignored_pixels
                found.append(f"  ignored: {split.ignored_pixels / total:.1%} of the pixels")
        for pair, names in self.duplicates.items():
            found.append(f"the same images {'in' if ' and ' in pair else 'twice in'} {pair}: {some(names)}")
        return [printable(line) for line in found]

    def warning_lines(self) -> list[str]:
        """What is surely not meant so, a line each."""
        return [f"warning: {printable(text)}" for text in self.warnings]


def _shares(counts: Mapping[str, int], total: int) -> str:
    """Counts with their shares; of many the rarest and the most frequent."""

    def shown(pairs: Sequence[tuple[str, int]]) -> str:
        return ", ".join(f"{key} {count:,} ({count / max(total, 1):.1%})" for key, count in pairs)

    if len(counts) <= _MANY:
        return shown(list(counts.items()))
    ordered = sorted(counts.items(), key=lambda pair: pair[1])
    return f"the rarest {shown(ordered[:5])}; the most frequent {shown(ordered[:-6:-1])}"


def whole(
    data: DataSet[Any], shown: Callable[[Iterable[str], int], Iterable[str]] = lambda found, total: found
) -> DataSet[Any]:
    """The data set without the images that break when they are decoded; its findings are told of these.

    Args:
        data: the data set, whose headers alone were checked.
        shown: shows the progress through so many images.

    Raises:
        DataError: for a split of which nothing is left.
    """
    parts = {}
    total = sum(len(part) for part in data.parts.values())
    complaints = iter(shown(_complaints(data), total))
    for name, part in data.parts.items():
        found = [next(complaints) for _ in range(len(part))]
        broken = [text for text in found if text]
        for text in broken:
            data.findings.problem(name, text)
        if len(broken) == len(part):
            raise DataError(f"{data.spec}: none of the {len(part)} images of {name} can be read: {broken[0]}")
        parts[name] = _subset(part, [place for place, text in enumerate(found) if not text]) if broken else part
        if broken and name in data.findings.used:
            data.findings.used[name] -= len(broken)
    return replace(data, parts=parts)


def _complaints(data: DataSet[Any]) -> Iterator[str]:
    """Of each item of each part what is wrong with it, "" for nothing."""

    def complaint(part: Any, place: int) -> str:
        try:
            part[place]
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        for part in data.parts.values():
            yield from pool.map(complaint, itertools.repeat(part), range(len(part)))


def _subset(part: Any, places: Sequence[int]) -> Any:
    if isinstance(part, BoxDataset):
        record = replace(part.record, scenes=[part.record.scenes[place] for place in places])
        return BoxDataset(record, part.masks, part.reading)
    if isinstance(part, LabelMaps):
        return LabelMaps([part.pairs[place] for place in places], part.code, part.reading)
    return part.subset(places) if hasattr(part, "subset") else Subset(part, places)


def survey(data: DataSet[Any], quick: bool = False) -> Survey:
    """Survey a data set.

    Args:
        data: the data set.
        quick: leave out what takes long: headers of all files, equal pixels (equal files are found), pixels of label
            maps.
    """
    splits: dict[str, Split] = {}
    for name, part in data.parts.items():
        splits[name] = _split(part, data.classes, quick)
    duplicates, mixed = _duplicates(data, quick)
    shared = _shared_warnings(data)
    warnings = [*_range_warnings(data), *shared, *_altered_copies(data)]
    several = [f"{pair} {len(names):,}" for pair, names in duplicates.items() if " and " in pair]
    if several and not shared:
        first = next(names for pair, names in duplicates.items() if " and " in pair)
        warnings.append(
            f"the same images are in more than one split ({', '.join(several)}, such as {first[0]}), so figures "
            "measured on them mean little"
        )
    if mixed:
        warnings.append(f"the same image in different classes: {some(mixed)}")
    for name, split in splits.items():
        few = [key for key, count in split.classes.items() if not count]
        told = name in data.findings.lacking or (quick and isinstance(data.parts[name], LabelMaps))
        if few and not told:
            warnings.append(f"{name}: none of {listed(few)}")
    return Survey(data.spec, data.classes, splits, duplicates, warnings, data.findings.to_dict())


def _split(part: Any, classes: Sequence[str], quick: bool) -> Split:
    found = Split(len(part))
    if isinstance(part, BoxDataset):
        _count_boxes(part, found, classes)
    elif isinstance(part, LabelMaps):
        found.classes = {} if quick else _count_pixels(part, found, classes)
    elif hasattr(part, "labels") or hasattr(part, "indices"):
        counts = Counter(labels_of(part))
        found.classes = {name: counts[label] for label, name in enumerate(classes)}
    # a task of somebody's own may have parts of another kind
    places, reading = stored_of(part), reading_of(part)
    if places and not quick:
        with ThreadPoolExecutor(8) as pool:
            headers = [item for item in pool.map(lambda place: _header(place, reading), places) if item is not None]
        found.kinds = dict(Counter(f"{item.kind} {item.mode}" for item in headers).most_common())
        found.channels = dict(Counter(_channels(item.mode) for item in headers).most_common())
        found.values = {
            "{:g} to {:g}".format(*item.whole): [item.least, item.most] for item in _ranges(places, reading)
        }
        _measure([item.size for item in headers], found)
    elif isinstance(part, BoxDataset):
        _measure([(scene.width, scene.height) for scene in part.record.scenes], found)
    return found


def _measure(sizes: list[tuple[int, int]], found: Split) -> None:
    if sizes:
        ordered = sorted(sizes, key=lambda size: size[0] * size[1])
        chosen = {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}
        found.sizes = {key: list(size) for key, size in chosen.items()}


def _header(place: Stored, reading: Reading) -> Header | None:
    try:
        return look(place.open(), reading)
    except (ImageError, OSError):
        # reported when the data set was opened
        return None


def _count_boxes(part: BoxDataset, found: Split, classes: Sequence[str]) -> None:
    labels: Counter[int] = Counter()
    sizes: Counter[str] = Counter()
    for scene in part.record.scenes:
        boxes = [box for box in scene.boxes if not box.crowd]
        found.empty += not boxes
        for box in boxes:
            labels[box.label] += 1
            area = box.xywh[2] * box.xywh[3] if box.area is None else box.area
            sizes["small" if area < _SMALL else "medium" if area < _MEDIUM else "large"] += 1
    found.classes = {name: labels[label] for label, name in enumerate(classes)}
    found.objects = {size: sizes[size] for size in ("small", "medium", "large")}


def _count_pixels(part: LabelMaps, found: Split, classes: Sequence[str]) -> dict[str, int]:
    def count(pair: tuple[Path, Path]) -> np.ndarray[Any, Any]:
        try:
            return np.bincount(part.code.read(pair[1], part.reading).ravel(), minlength=256)
        except ImageError:
            return np.zeros(256, np.int64)

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(count, part.pairs), np.zeros(256, np.int64))
    found.ignored_pixels = int(total[IGNORED])
    return {name: int(total[label]) for label, name in enumerate(classes)}


def _channels(mode: str) -> int:
    """Channels of the image library's mode."""
    return 1 if mode.startswith(("I;", "F;")) else len(PIL.ImageMode.getmode(mode).bands)


class _Range(NamedTuple):
    """What values the first images have that share a type.

    Attributes:
        whole: the range of the type.
        least: the lowest value.
        most: the highest value.
        used: between which values nearly all pixels are.
        images: how many there are.
        outside: how many have most of their pixels out of the values that are told to become black and white.
    """

    whole: tuple[int, int]
    least: float
    most: float
    used: tuple[float, float]
    images: int
    outside: int


def _ranges(places: Sequence[Stored], reading: Reading) -> list[_Range]:
    found: dict[tuple[int, int], list[tuple[float, float, tuple[float, float], bool]]] = defaultdict(list)
    for place in places[:_FIRST]:
        try:
            with open_pixels(place.open(), reading) as image:
                pixels = np.asarray(image)
                if image.mode not in ("F", "P", "1") and pixels.max(initial=0) <= 65535:
                    most = 2**bits - 1 if 8 < (bits := bits_of(image)) < 16 else 65535
                    whole = (-32768, 32767) if pixels.min() < 0 else (0, most) if is_deep(image.mode) else (0, 255)
                    room = (reading.value_range if whole != (0, 255) else None) or whole
                    outside = bool(((pixels < room[0]) | (pixels > room[1])).mean() > 1 - USED)
                    found[whole].append((float(pixels.min()), float(pixels.max()), spread(pixels), outside))
        except (ImageError, OSError):
            continue
    ranges = []
    for whole, seen in found.items():
        lows, highs, used, outsides = zip(*seen, strict=True)
        nearly_all = (min(low for low, _ in used), max(high for _, high in used))
        ranges.append(_Range(whole, min(lows), max(highs), nearly_all, len(seen), sum(outsides)))
    return ranges


def _shared_warnings(data: DataSet[Any]) -> list[str]:
    """A warning where two splits have the same files, perhaps by a link of their folders."""
    real = functools.cache(os.path.realpath)
    own = {
        split: {(real(str(file.parent)), file.name) for file in files_of(part) or getattr(part, "shards", [])}
        for split, part in data.parts.items()
    }
    return [
        f"{first} and {second} have {len(shared):,} files in common: {some(sorted(name for _, name in shared))}"
        for first, second in itertools.combinations(own, 2)
        if (shared := own[first] & own[second])
    ]


def deep_warnings(places: Sequence[Stored], reading: Reading, what: str) -> list[str]:
    """The warnings of images of more than 8 bits, of which some from all over are looked at."""
    noticed = Noticed()
    chosen = places[:: max(1, len(places) // _LOOKED)]
    for place in chosen:
        # no value of the pixels is needed, so any range will do
        header = _header(place, Reading(value_range=(0, 1)))
        if header is not None and (is_deep(header.mode) or header.halved):
            # what can't be read is told by others
            with suppress(ImageError, OSError):
                read_image(place.open(), name=str(place.file), reading=reading, noticed=noticed)
    of = what if len(chosen) == len(places) else f"{len(chosen)} of {len(places):,} {what}"
    return [f"{of}: {line}" for line in noticed.warnings(reading)]


def cropped_warnings(
    places: Sequence[Stored], share: Callable[[tuple[int, int]], float], what: str, viewer: str = "the network"
) -> list[str]:
    """A warning of images of which a network sees little; of very many some from all over are looked at.

    Args:
        places: the images.
        share: how much the network sees of an image (width, height), 0 to 1.
        what: what they are called: ``images of val``.
        viewer: what the network is called.
    """
    chosen = places[:: max(1, len(places) // _SIZED)]
    headers = [(place, _header(place, Reading(value_range=(0, 1)))) for place in chosen]
    names = [place.file.name for place, header in headers if header is not None and share(header.size) < HARDLY_SEEN]
    of = what if len(chosen) == len(places) else f"{len(chosen)} of {len(places):,} {what}"
    seen = f"of which {viewer} sees the middle alone, less than {HARDLY_SEEN:.0%} of them"
    return [f"{of} {seen}: {some(names)}"] if names else []


def range_warnings(places: Sequence[Stored], reading: Reading, what: str, setting: str = "") -> list[str]:
    """A warning where the first of some images use little of what their type can hold, or have most outside.

    Args:
        places: the images.
        reading: how they are read.
        what: what they are called: ``images of val``.
        setting: the option that tells another range; "" where there is none.
    """
    warnings = []
    for item in _ranges(places, reading):
        deep = item.whole[1] - item.whole[0] > 255
        low, high = (reading.value_range if deep else None) or item.whole
        least, most = item.used
        if most - least < USED * (high - low):
            few = "" if item.used == (item.least, item.most) else ", a few pixels apart"
            told = f"; {setting} {least:g} {most:g} would use it" if setting and deep else ""
            warnings.append(
                f"the first {item.images} {what} of values from {low:g} to {high:g} use {least:g} to {most:g} alone"
                f"{few}{told}"
            )
        if item.outside:
            warnings.append(
                f"{item.outside} of the first {item.images} {what} have more than nine tenths of their pixels outside "
                f"of {low:g} to {high:g}; they have {item.least:g} to {item.most:g}, and "
                f"{setting or 'data.value_range'} says what becomes black and white"
            )
    return warnings


def _range_warnings(data: DataSet[Any]) -> list[str]:
    """The warnings of each split."""
    found = (
        range_warnings(stored_of(part), reading_of(part), f"images of {split}", "--data.value_range")
        for split, part in data.parts.items()
    )
    return [warning for warnings in found for warning in warnings]


def _duplicates(data: DataSet[Any], quick: bool) -> tuple[dict[str, list[str]], list[str]]:
    """Images of equal content, by the pair of splits, and those of them that have different classes.

    Content is the pixels, whatever the format of the file; if quick, the bytes that are stored.
    """
    first: dict[int, dict[str, tuple[int, int | None]]] = defaultdict(dict)
    found: dict[str, list[str]] = defaultdict(list)
    mixed: list[str] = []
    numbers = _stored_numbers(data) if quick else _pixel_numbers(data)
    for split, part in data.parts.items():
        labels = labels_of(part) if hasattr(part, "labels") or hasattr(part, "indices") else None
        for place, number in enumerate(numbers[split]):
            if number is None:
                continue
            label = None if labels is None else labels[place]
            for other, (equal, its_label) in first[number].items():
                pair = _both_names((part, place), (data.parts[other], equal))
                found[split if other == split else f"{other} and {split}"].append(pair)
                if label != its_label:
                    mixed.append(pair)
            first[number].setdefault(split, (place, label))
    return dict(found), mixed


def _both_names(one: tuple[Any, int], other: tuple[Any, int]) -> str:
    """The names of two images, with as many of their folders as tell them apart."""
    names = [short_name(*one), short_name(*other)]
    paths = [item_name(*one), item_name(*other)]
    # one file may be in two splits
    if names[0] == names[1] and paths[0] != paths[1]:
        common = os.path.commonpath(paths)
        names = [Path(os.path.relpath(path, common)).as_posix() for path in paths]
    return " = ".join(names)


def _stored_numbers(data: DataSet[Any]) -> dict[str, list[int | None]]:
    """Of each image a number for its bytes where another one has as many; None for arrays and very many images."""
    places = {split: stored_of(part) for split, part in data.parts.items()}
    groups = equal_contents([place for found in places.values() for place in found])
    number_at = {index: number for number, group in enumerate(groups) for index in group}
    everywhere = itertools.count()
    return {split: [number_at.get(next(everywhere)) for _ in found] for split, found in places.items()}


def _pixel_numbers(data: DataSet[Any]) -> dict[str, list[int | None]]:
    """Of each image a number for its pixels; None for what can't be read."""

    def number(part: Any, place: int) -> int | None:
        try:
            return pixel_number(image_of(part, place))
        except ImageError:
            return None

    with ThreadPoolExecutor(8) as pool:
        return {
            split: list(pool.map(number, itertools.repeat(part), range(len(part))))
            for split, part in data.parts.items()
        }


def _altered_copies(data: DataSet[Any]) -> list[str]:
    """A warning for two splits that have altered copies of the same images by their names."""
    names = {split: _plain_names(part) for split, part in data.parts.items()}
    warnings = []
    for first, second in itertools.combinations(names, 2):
        both = [*names[first], *names[second]]
        border = len(names[first])
        pairs = []
        for group in families(both):
            ours, theirs = ([both[i] for i in group if (i < border) == side] for side in (True, False))
            # each split may count its own images from 0
            if ours and theirs and not (any(map(is_plain, ours)) and any(map(is_plain, theirs))):
                pairs.append(f"{theirs[0]} of {ours[0]}")
        if pairs:
            warnings.append(
                f"{first} and {second} have altered copies of the same images by their names: {some(pairs)}"
            )
    return warnings


def _plain_names(part: Any) -> list[str]:
    """The names of images with their last folder, if it is not that of a split."""
    if not stored_of(part):
        return []
    paths = [Path(short_name(part, index).rpartition(".tar:")[2]) for index in range(len(part))]
    return [path.name if words_of(path.parent.name).split else path.as_posix() for path in paths]
