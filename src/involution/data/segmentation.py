"""Images with a class for each pixel: Cityscapes, and label maps in folders."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.errors import SKIP_HINT, DataError, in_words, nearest
from involution.data.folders import CHECK_LIMIT
from involution.data.images import EXTENSIONS, ImageError, check_image, read_image
from involution.data.scenes import SCENES_FOLDER, make_digit_scenes

# pixels that neither train nor count
IGNORED = 255


@dataclass
class SegmentationData:
    """A data set in two parts, each yielding (``tv_tensors.Image`` [3, H, W], ``tv_tensors.Mask`` [H, W]).

    Attributes:
        spec: what it was opened by.
        classes: class names; a label is a place in this list, or 255 where a pixel doesn't count.
        train: training images.
        val: images that choose the checkpoint.
        problems: files that were left out, and why.
    """

    spec: str
    classes: list[str]
    train: LabelMaps
    val: LabelMaps
    problems: list[str] = field(default_factory=list)


class LabelMaps(Dataset[Any]):
    """Images with label maps.

    Args:
        pairs: files of images and of their label maps.
        table: label of each value from 0 to 255 in the files.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], table: Tensor) -> None:
        self.pairs = list(pairs)
        self.table = table

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        file, label_file = self.pairs[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file).convert("RGB")))
        labels = tv_tensors.Mask(self.table[torch.from_numpy(read_labels(label_file)).long()])
        if labels.shape != image.shape[1:]:
            raise ImageError(f"{label_file}: {_size(labels)} pixels, but its image {file.name} has {_size(image)}")
        return image, labels


def read_labels(file: Path) -> np.ndarray[Any, Any]:
    """The values [H, W] (uint8) of a label map: a grey or palette PNG.

    Raises:
        ImageError: for a file that can't be read, or one in colour.
    """
    import PIL.Image

    check_image(file)
    try:
        with PIL.Image.open(file) as image:
            if image.mode not in ("L", "P", "1"):
                raise ImageError(f"{file}: wanted a label map of one channel with 8 bits, got mode {image.mode}")
            values: np.ndarray[Any, Any] = np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise ImageError(f"{file}: broken or truncated image ({error})") from error
    return values


def open_segmentation(spec: str, *, on_problem: str = "refuse") -> SegmentationData:
    """Open a segmentation data set.

    Args:
        spec: ``cityscapes:PATH`` (leftImg8bit/ and gtFine/ with train/ and val/; 19 classes, all else is ignored),
            ``masks:PATH`` (train/ and val/ with images, labels/train/ and labels/val/ with PNG label maps of the same
            names, classes.txt with the class names in the order of the values from 0; 255 is ignored), or
            ``digit-scenes``, the embedded data set in that format (``digit-scenes:PATH`` for another folder).
        on_problem: ``refuse`` a data set with missing, broken or misshapen files, or ``skip`` these; either way all of
            them are reported.

    Raises:
        DataError: for an unknown source, missing files, or broken ones that are not to be skipped.
    """
    if on_problem not in ("refuse", "skip"):
        raise DataError(f"on_problem must be refuse or skip, got {on_problem!r}")
    kind, _, path = spec.partition(":")
    known = ("cityscapes", "masks", "digit-scenes")
    if kind not in known:
        raise DataError(f"no segmentation data set named {kind!r} (there are {', '.join(known)}){nearest(kind, known)}")
    if kind != "digit-scenes" and not path:
        raise DataError(f"{kind} needs a path: {kind}:PATH")
    root = make_digit_scenes(path or SCENES_FOLDER) if kind == "digit-scenes" else Path(path)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    if kind == "cityscapes":
        classes, table = _cityscapes_table()
        found = {split: _cityscapes_pairs(root, split) for split in ("train", "val")}
    else:
        classes = _classes(root / "classes.txt")
        table = torch.full((256,), IGNORED)
        table[: len(classes)] = torch.arange(len(classes))
        found = {split: _folder_pairs(root, split) for split in ("train", "val")}
    limit = None if kind == "cityscapes" else len(classes)
    problems: list[str] = []
    parts: dict[str, LabelMaps] = {}
    for split, pairs in found.items():
        with ThreadPoolExecutor(8) as pool:
            complaints = list(pool.map(lambda pair: _complaint(pair, limit), pairs[:CHECK_LIMIT]))
        complaints += [None] * (len(pairs) - len(complaints))
        problems += [complaint for complaint in complaints if complaint]
        whole = [pair for pair, complaint in zip(pairs, complaints, strict=True) if complaint is None]
        if not whole:
            raise DataError(f"{root}: no usable images in {split}{': ' + problems[0] if problems else ''}")
        parts[split] = LabelMaps(whole, table)
    if problems and on_problem == "refuse":
        raise DataError(f"{root}: {in_words(problems, 'images that can not be used')}. {SKIP_HINT}")
    return SegmentationData(spec, classes, parts["train"], parts["val"], problems)


def cityscapes_classes() -> list[str]:
    """Names of Cityscapes' 19 evaluated classes in the order of their labels."""
    return _cityscapes_table()[0]


def _cityscapes_table() -> tuple[list[str], Tensor]:
    """The 19 classes that are evaluated, and the label of each of the data set's ids."""
    from torchvision.datasets import Cityscapes

    evaluated = [item for item in Cityscapes.classes if 0 <= item.train_id < IGNORED]
    table = torch.full((256,), IGNORED)
    for item in evaluated:
        table[item.id] = item.train_id
    return [item.name for item in sorted(evaluated, key=lambda item: item.train_id)], table


def _cityscapes_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    files = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    if not files:
        raise DataError(
            f"{root}: no leftImg8bit/{split}/CITY/*_leftImg8bit.png; wanted Cityscapes as it is unpacked, leftImg8bit/ "
            "beside gtFine/"
        )
    return [
        (file, root / "gtFine" / split / file.parent.name / file.name.replace("leftImg8bit", "gtFine_labelIds"))
        for file in files
    ]


def _folder_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    folder = root / split
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(f"{root}: no images in {split}/")
    return [(file, root / "labels" / split / f"{file.stem}.png") for file in files]


def _classes(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"no such file: {file}; wanted the class names, one a line, in the order of the labels from 0")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not 2 <= len(names) <= IGNORED or len(set(names)) != len(names):
        raise DataError(f"{file}: wanted 2 to {IGNORED} different class names, one a line, got {len(names)} lines")
    return names


def _complaint(pair: tuple[Path, Path], limit: int | None) -> str | None:
    """What is wrong with a pair of files; ``limit`` is the number of classes where all other values are wrong."""
    import PIL.Image

    file, label_file = pair
    try:
        size = check_image(file)
        if not label_file.is_file():
            return f"{file}: no label map {label_file}"
        if limit is not None:
            values = read_labels(label_file)
            wrong = values[(values >= limit) & (values != IGNORED)]
            if wrong.size:
                return f"{label_file}: label {wrong[0]} found, but there are {limit} classes (and {IGNORED}, ignored)"
        check_image(label_file)
        with PIL.Image.open(label_file) as labels:
            if size != labels.size:
                return f"{label_file}: {labels.size} pixels, but its image {file.name} has {size}"
    except ImageError as error:
        return str(error)
    return None


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"
