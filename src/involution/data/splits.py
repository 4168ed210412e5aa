"""The parts of a data set: folders that bring them along, and cuts by chance where there are none."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from involution.data.errors import DataError
from involution.data.findings import Findings, listed, some
from involution.data.records import SPLITS

if TYPE_CHECKING:
    import numpy as np

    from involution.data.contents import Stored
    from involution.data.registry import Options

# what the splits are called, in any case; later words only where none of the first is there
_USUAL = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_USUAL |= {"test": "test", "testing": "test"}
_RARE = {"trn": "train", "dev": "val", "devel": "val", "development": "val", "tst": "test"}
_RARE |= {"holdout": "test", "heldout": "test"}
_SPLIT_WORDS = _USUAL | _RARE
# words beside the name of a split that say nothing of it
_FILLERS = frozenset({"set", "data", "dataset", "split", "subset", "instances", "obj", "class"})
# beside other versions of the same images, which may be classes
ORIGINALS = ("original", "originals")
IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "frames", "inputs", *ORIGINALS)
LABEL_WORDS = (
    *("labels", "masks", "annotations", "label", "mask", "annotation", "annot", "gt", "segmentation"),
    *("segmentations", "groundtruth", "groundtruths", "manual"),
)


class Words(NamedTuple):
    """What a name says by its words.

    Attributes:
        split: train, val or test; None where it names none, or several.
        plain: whether it is a usual name of the split and nothing else.
        labels: the word for labels in it, "" without.
        images: the word for images in it, "" without.
        rest: its other words.
    """

    split: str | None
    plain: bool
    labels: str
    images: str
    rest: tuple[str, ...]


def words_of(name: str) -> Words:
    """Read a name such as ``train2017``, ``TrainImages``, ``pets_hold-out`` or ``validation_masks``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    # ground truth, Ground_Truth and GroundTruth are one word
    spaced = re.sub(r"(?i)(?<![^\W\d_])ground[\W_]*truth", "groundtruth", spaced)
    words = [part for word in re.findall(r"[^\W\d_]+", spaced) for part in _parted(word.casefold())]
    if len(words) > 1 and "".join(words[-2:]) in _RARE:
        words[-2:] = ["".join(words[-2:])]
    splits = [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]
    labels = [word for word in words if word in LABEL_WORDS]
    known = (*_SPLIT_WORDS, *_FILLERS, *IMAGE_WORDS, *LABEL_WORDS)
    split = splits[0] if len(set(splits)) == 1 else None
    rest = tuple(word for word in words if word not in known)
    images = next((word for word in words if word in IMAGE_WORDS), "")
    return Words(split, name.casefold() in _USUAL, labels[0] if labels else "", images, rest)


def are_images_and_labels(names: Iterable[str]) -> bool:
    """Whether folders hold images and their labels, as images and masks do, rather than classes."""
    found = [words_of(name) for name in names]
    return any(item.images and not item.rest for item in found) and any(item.labels and not item.rest for item in found)


def _parted(word: str) -> list[str]:
    """A word in two where it is written as one: trainset, valimages, testannot."""
    for first in sorted(_SPLIT_WORDS, key=len, reverse=True):
        rest = word.removeprefix(first)
        if rest != word and (rest in _FILLERS or rest in IMAGE_WORDS or rest in LABEL_WORDS):
            return [first, rest]
    return [word]


def listed_splits(files: Iterable[str], where: object, findings: Findings) -> dict[str, str]:
    """The lists of names of splits, as Pascal VOC has them; beside test.txt alone, trainval.txt is train's.

    Args:
        files: names of the lists.
        where: their folder, for messages.
        findings: told of trainval.txt.
    """
    names = list(files)
    splits = name_splits(names, where, Findings())
    both = next((name for name in names if name.lower() == "trainval.txt"), None)
    if both and list(splits) == ["test"]:
        findings.note(f"{where}: {both} taken as train")
        splits["train"] = both
    return splits


def name_splits(names: Iterable[str], where: object, findings: Findings) -> dict[str, str]:
    """Which of some names stand for splits, such as ``{"train": "Training", "val": "val2017"}``.

    A name may have numbers and words such as set, data and images beside that of the split. Names with the same further
    word, such as pets_train and pets_test, stand for splits where there are two of them.

    Args:
        names: names of folders or files.
        where: the folder, for messages.
        findings: told what was recognised where it is not the plain name.

    Raises:
        DataError: for two names of one split, of which none is the plain one.
    """
    groups: dict[tuple[str, ...], list[tuple[str, Words]]] = {}
    for name in names:
        words = words_of(Path(name).stem if "." in name else name)
        if words.split and not words.labels:
            groups.setdefault(words.rest, []).append((name, words))
    chosen = groups.get((), [])
    if not chosen:
        several = [group for group in groups.values() if len({words.split for _, words in group}) > 1]
        chosen = several[0] if len(several) == 1 else []
    found: dict[str, str] = {}
    for split in SPLITS:
        fitting = [(name, words.plain) for name, words in chosen if words.split == split]
        plain = [name for name, is_plain in fitting if is_plain] or [name for name, _ in fitting]
        if len(plain) > 1:
            raise DataError(f"{where}: {' and '.join(plain)} both stand for {split}; keep one of them")
        if plain:
            found[split] = plain[0]
    strange = [f"{name}/ as {split}" for split, name in found.items() if name != split]
    if strange:
        findings.note(f"{where}: taken {', '.join(strange)}")
    return found


def no_split(where: object, split: str, found: Iterable[str]) -> DataError:
    """The error for a split that is wanted for an evaluation and not there.

    Args:
        where: the data set.
        split: the split.
        found: those that are there.
    """
    others = list(found)
    choice = f"; it has {', '.join(others)}: choose with --split {' or '.join(others)}" if others else ""
    return DataError(f"{where} has no {split} split{choice}")


def stratified_split(labels: Sequence[int], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut indices in two so that each class keeps its share in both; the same seed gives the same cut.

    Args:
        labels: class of each sample.
        share: part of the samples that goes into the second piece, 0 to 1.
        seed: draws the samples.

    Returns:
        Sorted indices of the first and of the second piece.

    Raises:
        DataError: if a class has too few samples to be in both pieces.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            np.arange(len(labels)), test_size=share, random_state=seed, stratify=np.asarray(labels)
        )
    except ValueError as error:
        least = min(Counter(labels).values(), default=0)
        raise DataError(
            f"can't split {len(labels)} images of {len(set(labels))} classes by {share:.0%}: wanted {round(1 / share)} "
            f"of each class, the smallest has {least}; add images, or make train/ and val/ yourself"
        ) from error
    return np.sort(first), np.sort(second)


def split_by_name(
    names: Sequence[str],
    shares: Sequence[float],
    seed: int,
    labels: Sequence[int] | None = None,
    units: Sequence[Sequence[int]] | None = None,
    findings: Findings | None = None,
    classes: Sequence[str] = (),
) -> list[list[int]]:
    """Cut indices by a number drawn from each name, so that an added or removed image moves no other.

    The pieces have about their shares. Only where a piece would have no image at all, of a class with labels, it gets
    the one whose number is nearest; that one goes back when the piece has others.

    Args:
        names: of the images, within the data set.
        shares: of the pieces after the first one, which gets the rest.
        seed: other seeds give other pieces.
        labels: class of each image; None where all are alike.
        units: indices of the images that stay together, those of one class; all of them. Each is drawn by its shortest
            name. None where every image is alone.
        findings: told which images went into another piece than that of their number.
        classes: names of the classes, for messages.

    Returns:
        Sorted indices of each piece.

    Raises:
        DataError: if a class has fewer images than there are pieces.
    """
    bounds = [sum(shares[:piece]) for piece in range(len(shares) + 1)]
    # the first piece is behind the others
    starts = [bounds[-1], *bounds[:-1]]
    units = [[index] for index in range(len(names))] if units is None else units
    places = [_place(min((names[index] for index in unit), key=lambda name: (len(name), name)), seed) for unit in units]
    pieces = [next((k + 1 for k, end in enumerate(bounds[1:]) if place < end), 0) for place in places]
    groups: dict[int, list[int]] = {}
    for number, unit in enumerate(units):
        groups.setdefault(0 if labels is None else labels[unit[0]], []).append(number)
    drawn = list(pieces)
    few = {label: len(group) for label, group in groups.items() if len(group) < len(starts)}
    if few:
        called = [f"{classes[label] if classes else f'class {label}'} {few[label]}" for label in sorted(few)]
        many = f"can't split {len(names)} images"
        if labels is None:
            raise DataError(f"{many}: wanted {len(starts)} or more; add some, or make train/ and val/ folders yourself")
        raise DataError(
            f"{many} of {len(groups)} classes: wanted {len(starts)} or more of each, got {listed(called)}; add images "
            "of these, move them away, or make train/ and val/ folders yourself"
        )
    for group in groups.values():
        for piece, start in enumerate(starts):
            inside = [[number for number in group if pieces[number] == other] for other in range(len(starts))]
            if not inside[piece]:
                largest = max(inside, key=lambda piece: len(piece))
                nearest = min(largest, key=lambda number: abs(places[number] - start))
                pieces[nearest] = piece
    moved = [names[index] for number, unit in enumerate(units) if pieces[number] != drawn[number] for index in unit]
    if moved and findings:
        findings.note(
            f"images that fill a split without others{'' if labels is None else ' of their class'}, and go back to "
            f"their own once it has some: {some(moved)}"
        )
    return [
        sorted(index for unit, found in zip(units, pieces, strict=True) if found == piece for index in unit)
        for piece in range(len(starts))
    ]


def _place(name: str, seed: int) -> float:
    """A number from 0 to 1; systems spell one name in several ways."""
    text = f"{seed}/{unicodedata.normalize('NFC', name)}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def cut_by(by: str, seed: int) -> str:
    """Say what `cut` cuts by, and that names give the shares only about."""
    return f"by split_seed {seed}" + (" and the images' names, so the shares are approximate" if by == "name" else "")


def val_of_train(where: object, share: float, options: Options) -> str:
    """Say that val is cut from train, where a data set has no images for it."""
    return f"{where}: no images of val; {share:.0%} of train become val {cut_by(options.split_by, options.split_seed)}"


def cut(
    names: Sequence[str],
    shares: Sequence[float],
    options: Options,
    findings: Findings,
    labels: Sequence[int] | None = None,
    stored: Sequence[Stored] = (),
    called: Sequence[str] | None = None,
    classes: Sequence[str] = (),
) -> list[list[int]]:
    """Cut indices as a data set's options say: by `name`, or by a `draw` in which an added image moves others.

    Altered copies of one image and files of equal content stay together, unless the options draw them apart.

    Args:
        names: of the images, within the data set.
        shares: of the pieces after the first one, which gets the rest.
        options: how the data set is opened.
        findings: told which images stay together.
        labels: class of each image, for pieces in which each class has its share; None where all are alike.
        stored: where the contents of the images are, for those that are equal.
        called: names by which altered copies are known, if these are others.
        classes: names of the classes, for messages.
    """
    findings.drawn_by |= {"split_seed", "split_by", "split_copies"}
    units = [[index] for index in range(len(names))]
    if options.split_copies == "together":
        units = _units(called or names, labels, stored, len(shares) + 1, findings)
    if options.split_by == "name":
        return split_by_name(names, shares, options.split_seed, labels, units, findings, classes)
    pieces = _drawn(len(units), shares, options.split_seed, None if labels is None else [labels[u[0]] for u in units])
    return [sorted(index for number in piece for index in units[number]) for piece in pieces]


def _units(
    names: Sequence[str], labels: Sequence[int] | None, stored: Sequence[Stored], pieces: int, findings: Findings
) -> list[list[int]]:
    """The images that stay together, in the order of the first of each; said where it is more than one."""
    from involution.data.contents import equal_contents
    from involution.data.families import families, joined

    label_of = [0] * len(names) if labels is None else list(labels)
    kinds = {
        "altered copies of one image by their names": families(names),
        "files of equal content": equal_contents(stored),
    }
    groups = [
        # one image in two classes is told elsewhere
        [index for index in group if label_of[index] == label]
        for found in kinds.values()
        for group in found
        for label in {label_of[index] for index in group}
    ]
    units = joined(len(names), groups)
    counts = Counter(label_of[unit[0]] for unit in units)
    few = {label for label, count in counts.items() if count < pieces}
    kept = [unit for unit in units if len(unit) > 1 and label_of[unit[0]] not in few]
    for what, found in kinds.items():
        members = {index for group in found for index in group}
        alike = [unit for unit in kept if len(members.intersection(unit)) > 1]
        if alike:
            shown = [" with ".join(PurePosixPath(names[index]).name for index in unit[:2]) for unit in alike]
            findings.note(
                f"{what}: {sum(map(len, alike)):,} images, kept in one split each: {some(shown)}; "
                "--data.split_copies apart draws them one by one"
            )
    if any(len(unit) > 1 and label_of[unit[0]] in few for unit in units):
        findings.note("copies of one image may be in several splits: there are too few other images of their class")
    return [
        part for unit in units for part in ([unit] if label_of[unit[0]] not in few else [[index] for index in unit])
    ]


def _drawn(count: int, shares: Sequence[float], seed: int, labels: Sequence[int] | None) -> list[list[int]]:
    """Cut so many indices into exact shares, of each class where there are labels."""
    import numpy as np

    rest, pieces = list(range(count)), []
    for number, share in reversed(list(enumerate(shares))):
        left = share / (1 - sum(shares[number + 1 :]))
        if labels is None:
            order = np.random.default_rng(seed).permutation(len(rest))
            held = set(order[: max(1, round(left * len(rest)))].tolist())
            first, second = ([i for i in range(len(rest)) if (i in held) == side] for side in (False, True))
        else:
            first, second = (part.tolist() for part in stratified_split([labels[i] for i in rest], left, seed))
        pieces.append([rest[i] for i in second])
        rest = [rest[i] for i in first]
    return [rest, *reversed(pieces)]
