"""Label maps in folders: a picture beside each image whose values, or colours, are the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings, some
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import SPLIT_NAMES
from involution.data.walk import images_below

_LABELS = ("labels", "masks", "annotations", "label", "mask")
# what tools append to the name of a label map
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_labelIds", "_gt")
_CLASS_FILES = ("classes.txt", "classes.json", "labelmap.txt", "label_colors.txt")


def open_masks(spec: str, path: str, options: Options) -> DataSet[Any]:
    """Open images in train/ and val/ with label maps of the same names in labels/train/ and labels/val/.

    The folders may also be images/train/ and masks/train/, or train/images/ and train/masks/; images/ and masks/ alone
    are split by chance. classes.txt holds the class names in the order of the values from 0, or each with its colour.
    """
    from involution.data.label_code import LabelCode, by_value, classes_of_values
    from involution.data.label_maps import segmentation_data

    root, findings = Path(path), Findings()
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    if options.values and not any((root / name).is_file() for name in _CLASS_FILES):
        classes, colours = classes_of_values(options.values), None
    else:
        classes, colours = _classes(root)
    code = LabelCode(classes, colours=colours) if colours else by_value(classes, options)
    pairs = _find(root, options, findings)
    return segmentation_data(spec, root, code, pairs, findings, options)


def _classes(root: Path) -> tuple[list[str], dict[tuple[int, int, int], int] | None]:
    from involution.data.label_code import read_classes

    for name in _CLASS_FILES:
        if (root / name).is_file():
            return read_classes(root / name)
    raise DataError(
        f"no such file: {root / 'classes.txt'}; wanted the class names, one per line, in the order of the labels from 0"
    )


def _find(root: Path, options: Options, findings: Findings) -> dict[str, list[tuple[Path, Path]]]:
    wanted = (options.only,) if options.only else ("train", "val")
    folders: dict[str, tuple[Path, Path]] = {}
    for split in SPLITS:
        found = _folders(root, split)
        if found and (not options.only or split == options.only):
            folders[split] = found
            if found[0].name.lower() != split and found[0].parent.name.lower() != split:
                findings.note(f"{root}: taken {found[0].relative_to(root)}/ as {split}")
    if not folders:
        labels = next((root / name for name in _LABELS if (root / name).is_dir()), None)
        if labels is not None and (root / "images").is_dir():
            return _by_chance(root, _pairs(root / "images", labels, "images", findings), options, findings)
    missing = [split for split in wanted if split not in folders]
    if missing:
        split = missing[0]
        raise DataError(f"{root}: no images in {split}/ with label maps in labels/{split}/; wanted both")
    pairs = {split: _pairs(*found, split, findings) for split, found in folders.items()}
    for split, files in pairs.items():
        if not files:
            raise DataError(f"{root}: no images in {split}/")
    return pairs


def _folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """The folders of a split's images and label maps."""
    present = {entry.name.lower(): entry.name for entry in root.iterdir() if entry.is_dir()}
    for name in SPLIT_NAMES[split]:
        plain = root / present.get(name, name)
        candidates = [(plain / "images", plain / label) for label in _LABELS]
        candidates += [(root / "images" / name, root / label / name) for label in _LABELS]
        candidates += [(plain, root / label / plain.name) for label in _LABELS]
        for images, labels in candidates:
            if images.is_dir() and labels.is_dir():
                return images, labels
    return None


def _by_chance(
    root: Path, pairs: list[tuple[Path, Path]], options: Options, findings: Findings
) -> dict[str, list[tuple[Path, Path]]]:
    import numpy as np

    if options.only:
        return {options.only: pairs}
    if len(pairs) < 2:
        raise DataError(f"{root}: {len(pairs)} images are too few for train and val")
    order = np.random.default_rng(options.split_seed).permutation(len(pairs))
    held = set(order[: max(1, round(0.2 * len(pairs)))].tolist())
    findings.note(f"{root}: one set of images, split 80 / 20 into train and val by split_seed {options.split_seed}")
    return {
        "train": [pair for place, pair in enumerate(pairs) if place not in held],
        "val": [pair for place, pair in enumerate(pairs) if place in held],
    }


def _pairs(images: Path, labels: Path, split: str, findings: Findings) -> list[tuple[Path, Path]]:
    """Each image with the label map of its name, in the same folder below; the map may be missing."""
    maps: dict[Path, Path] = {}
    for path in images_below(labels):
        first = maps.setdefault(path.relative_to(labels).with_suffix(""), path)
        if first != path:
            findings.ignore(f"label maps of {split} named as another", str(path.relative_to(labels)))
    owners: dict[Path, Path] = {}
    pairs: list[tuple[Path, Path]] = []
    renamed: list[str] = []
    for file in images_below(images, findings):
        stem = file.relative_to(images).with_suffix("")
        ending = next((end for end in _ENDINGS if stem.with_name(stem.name + end) in maps), "")
        name = stem.with_name(stem.name + ending)
        label_file = maps.get(name, labels / f"{name}.png")
        if label_file in owners:
            findings.problem(f"{split}/{file.name}", f"shares its label map with {owners[label_file].name}")
            continue
        owners[label_file] = file
        renamed += [label_file.name] if ending else []
        pairs.append((file, label_file))
    unused = [str(path.relative_to(labels)) for path in maps.values() if path not in owners]
    if unused:
        findings.ignore(f"label maps of {split} without an image", *unused)
    if renamed:
        findings.note(f"{split}: label maps with an ending of their own: {some(renamed)}")
    return pairs


def _recognises(folder: Path) -> bool:
    named = any((folder / name).is_file() for name in _CLASS_FILES)
    flat = (folder / "images").is_dir() and any((folder / name).is_dir() for name in _LABELS)
    return named and (flat or _folders(folder, "train") is not None)


register(
    Format(
        name="masks",
        task="segment",
        syntax="masks:PATH",
        description="images in train/ and val/, PNG label maps in labels/train/ and labels/val/, names in classes.txt",
        open=open_masks,
        recognises=_recognises,
    )
)
