"""Images with a class for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.images import CHECK_LIMIT, ImageError, check_image, read_image
from involution.data.records import DataSet
from involution.data.registry import Options

# pixels that neither train nor count
IGNORED = 255
Pair = tuple[Path, Path]


class LabelMaps(Dataset[Any]):
    """Images with label maps; an item is (``tv_tensors.Image`` [3, H, W], ``tv_tensors.Mask`` [H, W]).

    Args:
        pairs: files of images and of their label maps.
        table: label of each value from 0 to 255 in the files.
    """

    def __init__(self, pairs: Sequence[Pair], table: Tensor) -> None:
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


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"


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


def segmentation_data(
    spec: str,
    root: Path,
    classes: list[str],
    table: Tensor,
    pairs: dict[str, list[Pair]],
    options: Options,
    strict: bool,
) -> DataSet[LabelMaps]:
    """A segmentation data set from the pairs of files of its splits, checked.

    Args:
        spec: what it was opened by.
        root: its folder.
        classes: class names.
        table: label of each value from 0 to 255 in the files.
        pairs: files of images and label maps of each split.
        options: how it is opened.
        strict: whether each value must be a class or ``IGNORED``; else values of no class are ignored pixels.

    Raises:
        DataError: for a split without usable images, or problems that are not to be skipped.
    """
    findings = Findings()
    parts: dict[str, LabelMaps] = {}
    check: Callable[[Pair], str | None] = lambda pair: _complaint(pair, len(classes) if strict else None)  # noqa: E731
    for split, files in pairs.items():
        with ThreadPoolExecutor(8) as pool:
            complaints = list(pool.map(check, files[:CHECK_LIMIT]))
        complaints += [None] * (len(files) - len(complaints))
        for (file, _), complaint in zip(files, complaints, strict=True):
            if complaint:
                findings.problem(f"{split}/{file.name}", complaint)
        whole = [pair for pair, complaint in zip(files, complaints, strict=True) if complaint is None]
        if not whole:
            first = f": {findings.problems[0]}" if findings.problems else ""
            raise DataError(f"{root}: no usable images in {split}{first}")
        parts[split] = LabelMaps(whole, table)
        findings.used[split] = len(whole)
    findings.settle(root, options.on_problem)
    return DataSet(spec, classes, parts, findings)


def _complaint(pair: Pair, limit: int | None) -> str | None:
    """What is wrong with a pair of files; ``limit`` is the number of classes where all other values are wrong."""
    import PIL.Image

    file, label_file = pair
    try:
        size = check_image(file)
        if not label_file.is_file():
            return f"no label map {label_file}"
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
