"""Images with a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.box_files import size_complaint
from involution.data.contents import number_of
from involution.data.errors import DataError, printable
from involution.data.findings import Findings, listed, some
from involution.data.images import CHECK_LIMIT, Header, ImageError, Reading, look, read_image
from involution.data.label_code import IGNORED, Colour, LabelCode, palette
from involution.data.labelled import tell_alike, tell_numbered
from involution.data.leftovers import tell_leftovers
from involution.data.noticed import tell_frames, tell_headers
from involution.data.records import DataSet
from involution.data.registry import Options

Pair = tuple[Path, Path]
# of the pixels that are ignored: with more of them, and a class that occurs nowhere, it is surely that class
_MUCH = 0.2
# colours that differ by as much in each channel may be shades of one; and how many of each value are compared
_SHADE, _COLOURS = 24, 20
# for a look at label maps, whose values want no range
_AS_STORED = Reading("ignore", (0.0, 255.0))


class LabelMaps(Dataset[Any]):
    """Images with label maps; an item is (``tv_tensors.Image`` [3, H, W], ``tv_tensors.Mask`` [H, W]).

    Args:
        pairs: files of images and of their label maps.
        code: what the values of the maps mean.
        reading: how images and maps are read.
    """

    def __init__(self, pairs: Sequence[Pair], code: LabelCode, reading: Reading | None = None) -> None:
        self.pairs = list(pairs)
        self.code = code
        self.reading = reading or Reading()

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return str(self.pairs[index][0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        file, label_file = self.pairs[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file, reading=self.reading).convert("RGB")))
        labels = tv_tensors.Mask(torch.from_numpy(self.code.read(label_file, self.reading)).long())
        if labels.shape != image.shape[1:]:
            raise ImageError(f"{label_file}: {_size(labels)} pixels, but its image {file.name} has {_size(image)}")
        return image, labels


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"


def segmentation_data(
    spec: str, root: Path, code: LabelCode, pairs: dict[str, list[Pair]], findings: Findings, options: Options
) -> DataSet[LabelMaps]:
    """A segmentation data set from the pairs of files of its splits, checked.

    Args:
        spec: what it was opened by.
        root: its folder.
        code: what the values of the maps mean.
        pairs: files of images and label maps of each split.
        findings: what the format found.
        options: how it is opened.

    Raises:
        DataError: for a split without usable images, problems that are not to be skipped, or maps that are surely not
            meant so.
    """
    parts: dict[str, LabelMaps] = {}
    counts: dict[str, np.ndarray[Any, Any]] = {}
    two: dict[str, list[str]] = {}
    palettes = _Palettes()
    for split, files in pairs.items():
        whole, counts[split], two[split] = _check(files, split, code, findings, options.reading, palettes)
        if not whole:
            first = f": {findings.problems[0]}" if findings.problems else ""
            raise DataError(f"{root}: no usable images in {split}{first}")
        parts[split] = LabelMaps(whole, code, options.reading)
        findings.used[split] = len(whole)
    findings.settle(root, options.on_problem)
    palettes.tell(root, len(code.classes), findings, strict=not options.values and not options.allow_empty)
    tell_alike(code.classes, findings)
    tell_numbered(code.classes, findings)
    tell_leftovers(root, findings, "images outside the folders of the splits", options.only)
    for split, count in counts.items():
        _tell_classes(root, split, count, two[split], code, findings, options)
    return DataSet(spec, code.classes, parts, findings)


class _Palettes:
    """The colours of the values of label maps, which differ where each map has its own palette."""

    def __init__(self) -> None:
        # the first map of each
        self._colours: dict[int, dict[Colour, str]] = {}
        self._values: dict[Colour, dict[int, str]] = {}

    def see(self, file: Path, reading: Reading) -> None:
        """Look at a label map with a palette."""
        found = palette(file, reading)
        for value, colour in found.items():
            self._colours.setdefault(value, {}).setdefault(colour, file.name)
            # what a palette has twice tells nothing
            if list(found.values()).count(colour) == 1:
                self._values.setdefault(colour, {}).setdefault(value, file.name)

    def tell(self, root: Path, num_classes: int, findings: Findings, strict: bool) -> None:
        """Say which values have several colours.

        Raises:
            DataError: if strict, where colours have several values, too: then they mean other classes in other maps; or
                where greys are other classes than their values, as a program that counts colours anew leaves them.
        """
        greys = {value: colour[0] for value, (colour, *_) in self._colours.items() if len(set(colour)) == 1}
        levels = [greys[value] for value in sorted(greys)]
        moved = [value for value in sorted(greys) if greys[value] != value]
        # 0 and 255 as 0 and 1 keep their order
        lost = bool(moved) and (levels != sorted(levels) or max(levels) < num_classes)
        if strict and lost and len(greys) == len(self._colours):
            raise DataError(
                f"{root}: the palettes of the label maps draw the value {moved[0]} as the grey {greys[moved[0]]}, "
                "as if saving with a palette had moved the classes; save them without one, or, if the values are "
                "right: --data.allow_empty true"
            )
        several = {value: list(colours.items()) for value, colours in self._colours.items() if len(colours) > 1}
        if not several:
            return
        value, ((one, first), (other, second), *_) = min(several.items())
        said = f"palettes of label maps differ: the value {value} is {one} in {first} and {other} in {second}"
        if strict and (any(len(values) > 1 for values in self._values.values()) or self._moved()):
            raise DataError(
                f"{root}: {said}, and one colour has several values; save them with one palette, or in RGB with the "
                "colours in classes.txt, or, if the values are right: --data.allow_empty true"
            )
        findings.note(f"{said}; their values are taken, not their colours")

    def _moved(self) -> bool:
        """Whether a value has, in another map, almost the colour of another value and not its own."""
        seen = [(value, *pair) for value, found in self._colours.items() for pair in list(found.items())[:_COLOURS]]
        values, colours, files = (np.array(column) for column in zip(*seen, strict=True))
        for value in {value for value, found in self._colours.items() if len(found) > 1}:
            own = values == value
            apart = np.abs(colours[own][:, None] - colours[None]).max(-1)
            mine = np.where(apart[:, own] == 0, 256, apart[:, own]).min(1)
            # what one palette has side by side are two classes
            others = np.where(files[own][:, None] == files[None], 256, apart)[:, ~own].min(1, initial=256)
            if ((others <= _SHADE) & (4 * others < mine)).any():
                return True
        return False


def _check(
    files: list[Pair], split: str, code: LabelCode, findings: Findings, reading: Reading, palettes: _Palettes
) -> tuple[list[Pair], np.ndarray[Any, Any], list[str]]:
    """The pairs that can be used, the pixels of each label in them, and maps of 0 and the ignored value alone."""

    def look_at(pair: Pair) -> _Seen | str:
        try:
            return _pixels(pair, code, reading)
        except ImageError as error:
            return str(error)

    findings.saw(*[file for pair in files for file in pair])
    if len(files) > CHECK_LIMIT:
        findings.note(f"{split}: of {len(files):,} images the first {CHECK_LIMIT:,} are checked beforehand")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look_at, files[:CHECK_LIMIT]))
    total = np.zeros(256, np.int64)
    whole: list[Pair] = []
    void: list[str] = []
    two: list[str] = []
    headers: list[tuple[Path, Header]] = []
    # label maps of several classes by what they hold
    alike: dict[int, list[str]] = {}
    for pair, seen in zip(files, found, strict=False):
        if isinstance(seen, str):
            findings.problem(f"{split}/{pair[0].name}", seen.removeprefix(printable(f"{pair[0]}: ")))
            continue
        counts = seen.counts
        if code.colours is None and seen.headers[1][1].mode == "P":
            palettes.see(pair[1], reading)
        headers += seen.headers
        whole.append(pair)
        if np.count_nonzero(counts[:IGNORED]) > 1:
            alike.setdefault(seen.content, []).append(pair[1].name)
        total += counts
        if counts[IGNORED] == counts.sum():
            void.append(pair[1].name)
        elif counts[0] and counts[IGNORED] and counts[0] + counts[IGNORED] == counts.sum():
            two.append(pair[1].name)
    twice = [name for names in alike.values() if len(names) > 1 for name in names]
    if twice:
        findings.note(f"{split}: label maps that are the same as that of another image: {some(twice)}")
    if void:
        findings.ignore(f"label maps of {split} in which no pixel counts", *void)
    tell_headers(headers[::2], reading, findings, split, "label maps are")
    tell_frames(headers[1::2], findings, split)
    alpha = [file.name for file, header in headers[1::2] if header.alpha and code.colours is not None]
    if alpha:
        findings.note(f"{split}: label maps with an alpha channel, which is not read: {some(alpha)}")
    return whole + files[CHECK_LIMIT:], total, two


class _Seen(NamedTuple):
    """What a look at an image and its label map found."""

    # pixels of each label [256]
    counts: np.ndarray[Any, Any]
    headers: list[tuple[Path, Header]]
    # stands for the labels at their places
    content: int


def _pixels(pair: Pair, code: LabelCode, reading: Reading) -> _Seen:
    """A label map that fits its image."""
    file, label_file = pair
    header = look(file, reading)
    if not label_file.is_file():
        raise ImageError(f"no label map {label_file}")
    stored = look(label_file, _AS_STORED)
    if stored.white_zero:
        # programs differ in whether they turn the values round
        raise ImageError(
            f"{label_file}: a label map in TIFF whose 0 is white, so that its values are unsure; save it as PNG"
        )
    labels = code.read(label_file, reading)
    complaint = size_complaint(file, labels.shape[::-1], header, reading)
    if complaint:
        raise ImageError(f"{label_file}: {complaint}")
    counts = np.bincount(labels.ravel(), minlength=256)
    headers = [(file, header), (label_file, stored)]
    return _Seen(counts, headers, number_of(repr(labels.shape).encode(), labels.tobytes()))


def _tell_classes(
    root: Path,
    split: str,
    counts: np.ndarray[Any, Any],
    two: list[str],
    code: LabelCode,
    findings: Findings,
    options: Options,
) -> None:
    """Say which classes occur nowhere; refuse maps from which nothing, or surely not what was meant, can be learnt."""
    missing = [name for name, count in zip(code.classes, counts, strict=False) if not count]
    share = counts[IGNORED] / max(counts.sum(), 1)
    alone = len(code.classes) - len(missing) <= 1
    strict = not options.allow_empty and not options.values
    training = split == "train" and not options.allow_empty
    # where 255 is one of the values, and not all that a published table leaves out
    two = two if options.ignore_index is not None and code.ignores_one else []
    ignored = f"the value {options.ignore_index}, meaning ignored, covers {share:.2%} of the pixels" if share else ""
    names = listed(missing)
    nowhere = f"{names} occur{'s' if len(missing) == 1 else ''} nowhere" if missing else ""
    # a map of 0 and 255 without this check would be measured as all right wherever 0 is predicted
    suspect = two and (len(code.classes) == 2 or (missing and split == "train"))
    if strict and share and (suspect or alone or (missing and training and share > _MUCH)):
        said = [ignored, nowhere, f"label maps hold 0 and it alone: {some(two)}" if two else ""]
        pairs = zip((0, options.ignore_index), code.classes, strict=False)
        wanted = "{" + ", ".join(f"{value}: {name}" for value, name in pairs) + "}"
        # a published table takes no other values
        hint = (
            f"if it is a class, say so: --data.values '{wanted}'; " if code.ignores_one and options.ignore_index else ""
        )
        raise DataError(
            f"{root}: in {split} {', and '.join(filter(None, said))}; {hint}if everything is correct: "
            "--data.allow_empty true"
        )
    if missing and training and alone:
        raise DataError(
            f"{root}: in {split} no pixel is {names}: there is nothing to tell apart; fix the maps "
            "or classes.txt, or allow it: --data.allow_empty true"
        )
    if missing:
        findings.lack(split, f"no pixels of {some(missing, 5)}" + (f"; {ignored}" if ignored else ""))
    if two:
        findings.note(f"{split}: label maps of 0 and {options.ignore_index}, meaning ignored, alone: {some(two)}")
