"""Images with one label each: what the formats of classification have in common."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.errors import DataError, one_spelling
from involution.data.findings import Findings, listed, some
from involution.data.leftovers import tell_leftovers
from involution.data.records import DataSet
from involution.data.registry import Options
from involution.data.text import nfc, read_json, read_names

if TYPE_CHECKING:
    import numpy as np

# how much of the training images is set aside where a data set brings no validation images
VAL_SHARE = 0.1
_WORD = re.compile(r"[^\W\d_]+")
_ALPHABETS = {"LATIN", "CYRILLIC", "GREEK"}


def told_apart(names: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """Names of which those that several classes share have the number of each behind them.

    Example:
        >>> told_apart(["crane", "tench", "crane"], ["n02012849", "n01440764", "n03126707"])
        ['crane (n02012849)', 'tench', 'crane (n03126707)']
    """
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def classification_data(
    spec: str,
    classes: list[str],
    parts: dict[str, Any],
    findings: Findings,
    options: Options,
    root: Path | None = None,
) -> DataSet[Any]:
    """A classification data set from its parts.

    Args:
        spec: what it was opened by.
        classes: the data set's own class names.
        parts: by the split's name.
        findings: what the format found.
        options: how it is opened; its file of class names renames the classes.
        root: the folder whose other files are told of; None for no folder.

    Raises:
        DataError: for a file of class names that does not fit, or problems that are not to be skipped.
    """
    findings.settle(spec, options.on_problem)
    findings.used.update({split: len(part) for split, part in parts.items()})
    tell_alike(classes, findings)
    if options.classes:
        findings.saw(options.classes)
    if root is not None:
        tell_leftovers(root, findings, "images outside the class folders", options.only)
    given = name_classes(classes, Path(options.classes), spec, findings=findings) if options.classes else classes
    return DataSet(spec, given, parts, findings)


def tell_alike(classes: Sequence[str], findings: Findings) -> None:
    """Say which names of classes are surely one class, spelled in two ways, and which mix alphabets in a word."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(one_spelling(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = ", ".join(map(repr, names))
            findings.note(f"classes whose names differ in case, spaces, marks or look-alike letters alone: {shown}")
    mixed = [repr(name) for name in classes if any(len(_alphabets(word)) > 1 for word in _WORD.findall(name))]
    if mixed:
        findings.note(f"class names with letters of several alphabets in a word, which may be a slip: {some(mixed)}")


def _alphabets(word: str) -> set[str]:
    """Which of the alphabets with letters that look the same a word is written in."""
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in word} & _ALPHABETS


def tell_numbered(classes: Sequence[str], findings: Findings) -> None:
    """Say where the lines of a list of names begin with numbers: these are part of the names, and perhaps no places."""
    found = [re.match(r"(\d+)[\s:;,.)=-]+\S", name) for name in classes]
    numbers = [int(match[1]) for match in found if match]
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(classes))):
        shifted = f"; labels are counted from 0, so that label {numbers[0]} is another" if numbers[0] else ""
        findings.note(f"the class names begin with numbers, taken as part of them: {some(classes)}{shifted}")


def tell_missing(
    labels: Sequence[int], classes: Sequence[str], split: str, spec: str, findings: Findings, options: Options
) -> None:
    """Say which of the listed classes have no image.

    Raises:
        DataError: for those without a training image, unless that is allowed.
    """
    having = set(labels)
    missing = [name for label, name in enumerate(classes) if label not in having]
    if missing and split == "train" and not options.allow_empty:
        raise DataError(
            f"{spec}: no training images of {listed(missing)}; fix the class names, or allow it: "
            "--data.allow_empty true"
        )
    if missing:
        findings.lack(split, f"no images of {listed(missing)}")


def name_classes(
    own: Sequence[str], file: Path, spec: str, by_place: bool = False, findings: Findings | None = None
) -> list[str]:
    """The names that a file gives to the classes of a data set, in the data set's order.

    A JSON object names each class by its own name (a folder's); a list must hold the same names in any order, or the
    classes are numbers (folders 0, 1, …) and the names are taken by number. Nothing is named by its alphabetical place.

    Args:
        own: the data set's own names.
        file: one name a line, a JSON list, or a JSON object from own name to name.
        spec: the data set, for messages.
        by_place: the order of the own names is that of every such list, as ImageNet's is.
        findings: told of names in a JSON object for classes that there are none of.

    Raises:
        DataError: for a file that does not fit.
    """
    content = read_json(file) if file.suffix.lower() == ".json" else None
    if isinstance(content, dict):
        others = [key for key in map(nfc, content) if key not in own]
        if others and findings is not None:
            findings.note(f"{file.name} also names classes that there are none of: {some(others)}")
        return _by_own_name(own, content, file, spec)
    names = read_names(file)
    if len(names) != len(own):
        raise DataError(f"{file} names {len(names)} classes, but {spec} has {len(own)}")
    if set(names) == set(own):
        return list(own)
    numbers = [int(name) if name.isascii() and name.isdigit() else -1 for name in own]
    first = min(numbers)
    if first in (0, 1) and sorted(numbers) == list(range(first, first + len(own))):
        return [names[number - first] for number in numbers]
    if by_place:
        if findings is not None:
            pairs = [f"{folder} is {name}" for folder, name in zip(own, names, strict=True)]
            findings.note(f"{file.name} names the folders in their order: {some(pairs)}")
        return names
    unknown = [name for name in own if name not in names]
    raise DataError(
        f"{file} does not name the classes of {spec}: {', '.join(unknown[:3])} is not in it; wanted the same names, or "
        f'a JSON object such as {{"{unknown[0]}": "name"}}'
    )


def _by_own_name(own: Sequence[str], content: dict[str, Any], file: Path, spec: str) -> list[str]:
    composed = {nfc(key): value for key, value in content.items()}
    names = [composed.get(name) for name in own]
    for name, given in zip(own, names, strict=True):
        if not isinstance(given, str) or not given.strip():
            raise DataError(f"{file} does not name the class {name!r} of {spec}; wanted a text, got {given!r}")
    found = [nfc(str(name).strip()) for name in names]
    if len(set(found)) < len(found):
        raise DataError(f"{file} gives two classes of {spec} one name; wanted different names")
    return found


def labels_of(part: Any) -> list[int]:
    """The label of each image of a part, without reading the images."""
    if hasattr(part, "labels"):
        return [int(label) for label in part.labels]
    # a torch Subset
    whole = labels_of(part.dataset)
    return [whole[index] for index in part.indices]


def balanced_weights(labels: Sequence[int], num_classes: int) -> np.ndarray[Any, Any]:
    """Weights [num_classes] by which every class counts alike; their mean over the images is 1.

    A class without images has the weight 0.

    Example:
        >>> balanced_weights([0, 0, 0, 1], 3).round(2).tolist()
        [0.67, 2.0, 0.0]
    """
    import numpy as np

    counts = np.bincount(labels, minlength=num_classes)
    shares = len(labels) / ((counts > 0).sum() * counts.clip(1))
    return np.where(counts > 0, shares, 0.0)
