"""What the values or colours of label maps mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from involution.data.errors import DataError
from involution.data.findings import some
from involution.data.images import ImageError, Reading, is_deep, open_pixels
from involution.data.text import nfc, read_lines, read_names

if TYPE_CHECKING:
    from involution.data.findings import Findings
    from involution.data.registry import Options

# pixels that neither train nor count
IGNORED = 255
# a value that stands for no class
_UNKNOWN = -1
Colour = tuple[int, int, int]
# name 128 64 0, name: 128,64,0:: (CVAT), 128 64 0 name (CamVid)
_NAME_FIRST = re.compile(r"(.*?)[\s:,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s:,;]*")
_CVAT = re.compile(r"([^:]*):([\d,\s]*):([^:]*):([^:]*)")
_COLOUR_FIRST = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s:,;]+(.*)")


@dataclass(frozen=True)
class LabelCode:
    """From the values or colours of label maps to labels.

    Attributes:
        classes: class names; a label is a place in this list.
        table: [256], label of each value, ``IGNORED``, or -1 for a value that is none; None for maps in colour.
        colours: label of each colour; None for maps of values.
        by_setting: the values are those of data.values.
    """

    classes: list[str]
    table: np.ndarray[Any, Any] | None = None
    colours: Mapping[Colour, int] | None = None
    by_setting: bool = False

    @property
    def ignores_one(self) -> bool:
        """Whether one value alone stands for what does not count."""
        return self.table is not None and int((self.table == IGNORED).sum()) == 1

    @property
    def void(self) -> list[int]:
        """Labels that no value or colour stands for, such as that of a class whose value is ignored."""
        labels: Any = self.table if self.colours is None else list(self.colours.values())
        known = set(np.unique(labels).tolist())
        return [label for label in range(len(self.classes)) if label not in known]

    def read(self, file: Path, reading: Reading) -> np.ndarray[Any, Any]:
        """The labels [H, W] (uint8) of a label map, turned as the reading says.

        Raises:
            ImageError: for a file that can't be read, or that holds something else.
        """
        with open_pixels(file, reading) as image:
            loss, unsure = image.info["lossy"]
            # a colour that changed is no class's
            if loss and not (unsure and self.colours is not None):
                said = (
                    f"a label map saved as {loss}, which {'may change' if unsure else 'changes'} values; save it as PNG"
                )
                raise ImageError(f"{file}: {said}")
            if self.colours is not None:
                return self._of_colours(np.asarray(image.convert("RGB")), file)
            if image.mode not in ("L", "P", "1") and not (is_deep(image.mode) and image.mode != "F"):
                raise ImageError(
                    f"{file}: wanted a label map of one channel, got mode {image.mode}; for maps in colour put the "
                    "colours into classes.txt, such as: road 128 64 128"
                )
            values = np.asarray(image)
            most = image.info["most"]
            return self._of_values(values if most == 255 else (values * (most / 255)).round(), file)

    def relabelled(self, places: Sequence[int], classes: list[str]) -> LabelCode:
        """The same maps under other labels: ``places`` has the new one of each class."""
        new = np.array([*places, *[IGNORED] * (256 - len(places))])
        colours = self.colours and {colour: int(new[label]) for colour, label in self.colours.items()}
        table = None if self.table is None else np.where(self.table == _UNKNOWN, _UNKNOWN, new[self.table])
        return LabelCode(classes, table, colours, self.by_setting)

    def _of_values(self, values: np.ndarray[Any, Any], file: Path) -> np.ndarray[Any, Any]:
        table: Any = self.table
        found = values.astype(np.int64)
        outside = (found < 0) | (found > 255)
        labels = table[found.clip(0, 255)]
        labels[outside] = _UNKNOWN
        if (labels == _UNKNOWN).any():
            wrong = np.unique(found[labels == _UNKNOWN])
            known = [str(value) for value in np.flatnonzero(table != _UNKNOWN)]
            shown = f"{', '.join(known[:12])}{', …' if len(known) > 12 else ''}"
            first = ", ".join(map(str, wrong[:3])) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            todo = (
                "data.values, which an evaluation takes from the checkpoint, says so: save the maps with these values"
                if self.by_setting
                else "name all classes, save the maps with these values, or say in the training what theirs mean: "
                "--data.values"
            )
            raise ImageError(
                f"{file}: label {first} found, but there are {len(self.classes)} classes (values {shown}); {todo}"
            )
        return labels.astype(np.uint8)

    def _of_colours(self, pixels: np.ndarray[Any, Any], file: Path) -> np.ndarray[Any, Any]:
        colours: Any = self.colours
        codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
        found, places = np.unique(codes, return_inverse=True)
        known = {(red << 16) + (green << 8) + blue: label for (red, green, blue), label in colours.items()}
        labels = np.array([known.get(int(code), _UNKNOWN) for code in found])
        if (labels == _UNKNOWN).any():
            wrong = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in found[labels == _UNKNOWN]]
            raise ImageError(f"{file}: {len(wrong)} colours are no class's, such as {wrong[0]}")
        return labels[places].reshape(codes.shape).astype(np.uint8)


def palette(file: Path, reading: Reading) -> dict[int, Colour]:
    """The colours of the values that occur in a label map with a palette; empty for one without."""
    with open_pixels(file, reading) as image:
        colours = image.getpalette() if image.mode == "P" else None
        used = np.unique(np.asarray(image)).tolist() if colours else []
    triples = {value: tuple(colours[3 * value : 3 * value + 3]) for value in used} if colours else {}
    return {value: colour for value, colour in triples.items() if len(colour) == 3}


def tell_needless(options: Options, because: str, findings: Findings) -> None:
    """Say that what the options tell of values is not asked: what they mean is known."""
    if options.values or options.ignore_index != IGNORED:
        findings.note(f"data.values and data.ignore_index do not apply: {because}")


def by_value(classes: Sequence[str], options: Options, findings: Findings | None = None) -> LabelCode:
    """The code of maps whose values are the classes' places, or what the options say.

    Args:
        classes: class names.
        options: with the values and the ignored one.
        findings: told where the usual ignored value is a class's.

    Raises:
        DataError: for values or names that do not fit.
    """
    table = np.full(256, _UNKNOWN)
    ignore = options.ignore_index
    if ignore is not None and not 0 <= ignore <= 255:
        raise DataError(f"ignore_index must be from 0 to 255 or null, got {ignore}")
    if not options.values:
        table[: len(classes)] = np.arange(len(classes))
        if ignore is not None:
            # where it is a class's place as well, that class is what does not count
            table[ignore] = IGNORED
        return LabelCode(list(classes), table)
    values = _values(options.values)
    if ignore is not None:
        table[ignore] = IGNORED
        # the usual one is nobody's wish
        if ignore != IGNORED and values.get(ignore) is not None:
            raise DataError(
                f"ignore_index {ignore} says that the value does not count, and values that it is {values[ignore]!r}; "
                "give one of the two"
            )
        if values.get(ignore) is not None and findings is not None and options.given:
            findings.note(
                f"the value {ignore} counts, as {values[ignore]!r} by data.values; data.ignore_index {ignore}, its "
                "default, does not apply"
            )
    for value, name in values.items():
        if name is not None and name not in classes:
            raise DataError(f"values: {name!r} is none of the classes {', '.join(classes)}")
        table[value] = IGNORED if name is None else list(classes).index(name)
    return LabelCode(list(classes), table, by_setting=True)


def _values(values: Mapping[Any, Any]) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    for value, name in values.items():
        if not str(value).strip().isdigit() or int(value) > 255 or not isinstance(name, str | None):
            raise DataError(f"values wants numbers from 0 to 255 with the names of classes, got {value}: {name}")
        found[int(value)] = name and nfc(name)
    return found


def classes_of_values(values: Mapping[Any, Any]) -> list[str]:
    """Names of the classes that a setting of values has, in their order."""
    return list(dict.fromkeys(name for name in _values(values).values() if name is not None))


def read_classes(file: Path, findings: Findings | None = None) -> tuple[list[str], dict[Colour, int] | None]:
    """Class names of label maps, and their colours where every line has one: ``road 128 64 128``.

    Args:
        file: the list; CVAT's labelmap.txt has lines of ``label:color_rgb:parts:actions``.
        findings: told of what is not read.

    Raises:
        DataError: for a file that can't be read, names or colours that appear twice, or lines without a colour beside
            those with one.
    """
    lines = read_lines(file) if file.suffix.lower() != ".json" else []
    # CVAT begins with a heading
    lines = lines[1:] if lines and re.match(r"#\s*label\b", lines[0]) else lines
    fields = [_CVAT.fullmatch(line) for line in lines]
    if lines and all(fields):
        lines = [f"{field[1]}:{field[2]}" if field[2].strip() else field[1] for field in fields if field]
        busy = [field[1] for field in fields if field and (field[3].strip() or field[4].strip())]
        if busy and findings is not None:
            findings.note(f"{file.name}: parts and actions of classes are not read: {some(busy)}")
    elif file.name == "labelmap.txt" and any(fields):
        wrong = lines[fields.index(None)]
        raise DataError(
            f"{file}: wanted lines of label:color_rgb:parts:actions, such as road:128,64,128::, got {wrong!r}"
        )
    pairs = [_coloured(line) for line in lines]
    if 2 * sum(map(bool, pairs)) > len(pairs) and not all(pairs):
        raise DataError(
            f"{file}: {lines[pairs.index(None)]!r} has no colour, but most other classes have; wanted one for each, "
            "such as: road 128 64 128"
        )
    if not pairs or not all(pairs):
        return (_different(lines, file) if fields and all(fields) else read_names(file, most=IGNORED)), None
    names = [name for name, _ in pairs if name]  # type: ignore[misc]
    colours = {colour: label for label, (_, colour) in enumerate(pairs)}  # type: ignore[misc]
    if len(set(names)) < len(pairs) or len(colours) < len(pairs):
        raise DataError(f"{file}: wanted different class names, each with a different colour")
    if any(value > 255 for colour in colours for value in colour):
        raise DataError(f"{file}: colours have values from 0 to 255")
    return names, colours


def _different(lines: Sequence[str], file: Path) -> list[str]:
    names = [nfc(line.strip()) for line in lines]
    if not all(names) or len(set(names)) < len(names) or not 2 <= len(names) <= IGNORED:
        raise DataError(f"{file}: wanted 2 to {IGNORED} different class names, got {', '.join(names[:12])}")
    return names


def _coloured(line: str) -> tuple[str, Colour] | None:
    match = _NAME_FIRST.fullmatch(line)
    if match:
        name, *colour = match.groups()
    elif match := _COLOUR_FIRST.fullmatch(line):
        *colour, name = match.groups()
    else:
        return None
    red, green, blue = map(int, colour)
    return nfc(name.strip()), (red, green, blue)
