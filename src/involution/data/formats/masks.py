"""Label maps in folders: a picture beside each image whose values, or colours, are the classes."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings, some
from involution.data.images import EXTENSIONS
from involution.data.pair_folders import find_pairs
from involution.data.paths import need_folder
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import cut_by, listed_splits, no_split, val_of_train
from involution.data.text import nfc, one_list, read_lines
from involution.data.walk import images_below

# what tools append to the name of a label map
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_labelIds", "_gt")
# of images that come without val
_SHARE = 0.2
_CLASS_FILES = ("classes.txt", "classes.json", "labelmap.txt", "label_colors.txt")


def open_masks(spec: str, path: str, options: Options) -> DataSet[Any]:
    """Open images in train/ and val/ with label maps of the same names in labels/train/ and labels/val/.

    The folders may also be images/train/ and masks/train/, or train/images/ and train/masks/; images/ and masks/ alone
    are split by chance. classes.txt holds the class names in the order of the values from 0, or each with its colour.
    """
    from involution.data.label_code import LabelCode, by_value, classes_of_values, tell_needless
    from involution.data.label_maps import segmentation_data

    root, findings = Path(path), Findings()
    need_folder(root)
    if options.values and not any((root / name).is_file() for name in _CLASS_FILES):
        classes, colours = classes_of_values(options.values), None
    else:
        classes, colours = _classes(root, findings)
    code = LabelCode(classes, colours=colours) if colours else by_value(classes, options, findings)
    if colours:
        tell_needless(options, "the list of classes has their colours", findings)
    pairs = _find(root, options, findings)
    return segmentation_data(spec, root, code, pairs, findings, options)


def _classes(root: Path, findings: Findings) -> tuple[list[str], dict[tuple[int, int, int], int] | None]:
    from involution.data.label_code import read_classes

    files = [root / name for name in _CLASS_FILES if (root / name).is_file()]
    if files:
        findings.saw(*files)
        one_list(files, lambda file: read_classes(file)[0])
        return read_classes(files[0], findings)
    raise DataError(
        f"no such file: {root / 'classes.txt'}; wanted the class names, one per line, in the order of the labels from "
        "0, or --data.values '{0: background, 1: lesion}'"
    )


def _find(root: Path, options: Options, findings: Findings) -> dict[str, list[tuple[Path, Path]]]:
    folders = find_pairs(root, findings, _holds_images)
    whole = folders.get("all")
    lists = root / "ImageSets" / "Segmentation"
    if whole is not None and whole.labels is not None and lists.is_dir():
        return _by_lists(root, lists, whole.images, whole.labels, options, findings)
    if whole is not None and whole.labels is not None:
        files = _pairs(whole.images, whole.labels, "images", findings)
        _tell_unused(whole.labels, {label for _, label in files}, "label maps", findings)
        return _by_chance(root, files, options, findings)
    known = {split: (found.images, found.labels) for split, found in folders.items() if found.labels is not None}
    if options.only and known and options.only not in known:
        raise no_split(root, options.only, known)
    # a folder of val without label maps is a mistake, none at all is not
    wanted = (options.only,) if options.only else ("train", "val") if "val" in folders else ("train",)
    missing = [split for split in wanted if split not in known]
    if missing:
        split = missing[0]
        raise DataError(f"{root}: no images in {split}/ with label maps in labels/{split}/; wanted both")
    chosen = {split: pair for split, pair in known.items() if not options.only or split == options.only}
    pairs = {split: _pairs(*pair, split, findings) for split, pair in chosen.items()}
    for split, files in pairs.items():
        if not files:
            raise DataError(f"{root}: no images in {chosen[split][0].relative_to(root)}/")
    owned = {label for files in pairs.values() for _, label in files}
    shared = len({labels for _, labels in chosen.values()}) < len(chosen)
    for split, (_, labels) in chosen.items():
        _tell_unused(labels, owned, "label maps" if shared else f"label maps of {split}", findings)
    return _with_val(root, pairs, options, findings)


def _by_lists(
    root: Path, lists: Path, images: Path, labels: Path, options: Options, findings: Findings
) -> dict[str, list[tuple[Path, Path]]]:
    """The splits of Pascal VOC's lists of names; one list of another name is split by chance."""
    files = {file.name: file for file in sorted(lists.glob("*.txt"))}
    splits = listed_splits(files, lists, findings)
    if not splits and len(files) == 1:
        splits = {"all": next(iter(files))}
    if options.only and "all" not in splits and options.only not in splits:
        raise no_split(root, options.only, splits)
    by_stem = {file.relative_to(images).with_suffix("").as_posix(): file for file in images_below(images)}
    pairs: dict[str, list[tuple[Path, Path]]] = {}
    for split, name in splits.items():
        if options.only and split not in ("all", options.only):
            continue
        findings.saw(files[name])
        pairs[split] = []
        named: set[str] = set()
        for stem in filter(None, read_lines(files[name])):
            if stem in named:
                findings.problem(f"{name}: {stem}", "is named twice")
            elif stem in by_stem:
                named.add(stem)
                pairs[split].append((by_stem[stem], labels / f"{stem}.png"))
            else:
                findings.problem(f"{name}: {stem}", f"no such image in {images.name}/")
    if "all" in pairs:
        return _by_chance(root, pairs["all"], options, findings)
    if not options.only and not pairs.get("train"):
        raise DataError(f"{lists}: no list of train; wanted train.txt and val.txt")
    return _with_val(root, pairs, options, findings)


def _by_chance(
    root: Path, pairs: list[tuple[Path, Path]], options: Options, findings: Findings
) -> dict[str, list[tuple[Path, Path]]]:
    if options.only:
        findings.take_whole(root)
        return {options.only: pairs}
    how = cut_by(options.split_by, options.split_seed)
    findings.note(f"{root}: one set of images, split 80 / 20 into train and val {how}")
    return _cut(root, pairs, options, findings)


def _with_val(
    root: Path, pairs: dict[str, list[tuple[Path, Path]]], options: Options, findings: Findings
) -> dict[str, list[tuple[Path, Path]]]:
    """The splits, val cut from train where there are no images for it."""
    if options.only or pairs.get("val"):
        return pairs
    findings.note(val_of_train(root, _SHARE, options))
    test = {"test": pairs["test"]} if "test" in pairs else {}
    return {**_cut(root, pairs["train"], options, findings), **test}


def _cut(
    root: Path, pairs: list[tuple[Path, Path]], options: Options, findings: Findings
) -> dict[str, list[tuple[Path, Path]]]:
    from involution.data.contents import Stored
    from involution.data.splits import cut

    if len(pairs) < 2:
        raise DataError(f"{root}: {len(pairs)} images are too few for train and val")
    names = [image.relative_to(root).as_posix() if root in image.parents else image.name for image, _ in pairs]
    train, val = cut(names, (_SHARE,), options, findings, stored=[Stored(image) for image, _ in pairs])
    return {"train": [pairs[place] for place in train], "val": [pairs[place] for place in val]}


def _pairs(images: Path, labels: Path, split: str, findings: Findings) -> list[tuple[Path, Path]]:
    """Each image with the label map of its name, in the same folder below; the map may be missing."""
    maps: dict[Path, Path] = {}
    for path in images_below(labels):
        first = maps.setdefault(_stem(path, labels), path)
        if first != path:
            findings.ignore(f"label maps of {split} named as another", str(path.relative_to(labels)))
            findings.saw(path)
    owners: dict[Path, Path] = {}
    pairs: list[tuple[Path, Path]] = []
    renamed: list[str] = []
    for file in images_below(images):
        stem = _stem(file, images)
        # 7.jpg.png belongs to 7.jpg
        endings = (*_ENDINGS, file.suffix)
        ending = next((end for end in endings if stem.with_name(stem.name + end) in maps), "")
        name = stem.with_name(stem.name + ending)
        label_file = maps.get(name, labels / f"{name}.png")
        if label_file in owners:
            findings.problem(f"{split}/{file.name}", f"shares its label map with {owners[label_file].name}")
            findings.saw(file)
            continue
        owners[label_file] = file
        renamed += [label_file.name] if ending else []
        pairs.append((file, label_file))
    if renamed:
        findings.note(f"{split}: label maps with an ending of their own: {some(renamed)}")
    return pairs


def _stem(file: Path, folder: Path) -> Path:
    """What an image and its label map have in common: the path below their folders, without the suffix."""
    return Path(nfc(str(file.relative_to(folder).with_suffix(""))))


def _tell_unused(labels: Path, owned: set[Path], what: str, findings: Findings) -> None:
    """Say which label maps of a folder belong to no image."""
    unused = [path for path in images_below(labels) if path not in owned and os.path.abspath(path) not in findings.seen]
    if unused:
        findings.ignore(f"{what} without an image", *[path.relative_to(labels) for path in unused])
        findings.saw(*unused)


def _recognises(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _CLASS_FILES) and _maps(folder) is not None


def _lacking(folder: Path) -> str:
    maps = None if any((folder / name).is_file() for name in _CLASS_FILES) else _maps(folder)
    if maps is None:
        return ""
    return (
        f"{maps.relative_to(folder)}/ has label maps: write the names of their classes into {folder / 'classes.txt'}, "
        f"one per line in the order of the values from 0, and it is --data masks:{folder}"
    )


def _maps(folder: Path) -> Path | None:
    """The folder of the label maps of train, or of all images."""
    try:
        found = find_pairs(folder, Findings(), _holds_images)
    except DataError:
        return None
    pair = found.get("train") or found.get("all")
    # the labels of boxes lie in folders of the same names
    return pair.labels if pair is not None and pair.labels is not None and _holds_images(pair.labels) else None


def _holds_images(folder: Path) -> bool:
    """Whether one of the first files below a folder is an image by its name."""
    return any(path.suffix.lower() in EXTENSIONS for path in itertools.islice(folder.rglob("*"), 200))


register(
    Format(
        name="masks",
        task="segment",
        syntax="masks:PATH",
        description="images in train/ and val/, PNG label maps in labels/train/ and labels/val/, names in classes.txt",
        open=open_masks,
        recognises=_recognises,
        lacking=_lacking,
    )
)
