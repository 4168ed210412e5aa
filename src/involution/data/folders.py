"""Images in folders, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from involution.data.errors import DataError, printable
from involution.data.findings import Findings
from involution.data.images import CHECK_LIMIT, ImageError, Reading, check_image, read_image
from involution.data.paths import is_folder
from involution.data.walk import images_below

if TYPE_CHECKING:
    from PIL.Image import Image


class FileDataset(Dataset[tuple[Any, int]]):
    """Image files with their labels, read when asked for.

    Args:
        files: the image files.
        labels: class index of each.
        reading: how they are read.
    """

    def __init__(self, files: Sequence[Path], labels: Sequence[int], reading: Reading | None = None) -> None:
        self.files = list(files)
        self.labels = list(labels)
        self.reading = reading or Reading()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_image(self.files[index], reading=self.reading), self.labels[index]

    def subset(self, indices: Sequence[int]) -> FileDataset:
        """The samples of these indices, in their order."""
        return FileDataset([self.files[i] for i in indices], [self.labels[i] for i in indices], self.reading)


def class_folders(root: Path) -> list[str]:
    """Names of the class folders below a folder, sorted; two or more.

    Raises:
        DataError: for a missing folder, or one with fewer folders: then it is surely not the one that was meant.
    """
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    names = subfolders(root)
    if not names:
        raise DataError(f"{root} has no class folders; wanted one folder of images per class")
    if len(names) == 1:
        deeper = subfolders(root / names[0])
        hint = f"; {names[0]}/ has {_some(deeper)}: is {root / names[0]} meant?" if deeper else ""
        raise DataError(f"{root} has one class folder only, {names[0]}/; wanted two classes or more{hint}")
    return names


def subfolders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    return sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".") and is_folder(entry))


def read_folder(
    root: Path, classes: Sequence[str], findings: Findings, reading: Reading, where: str, allow_empty: bool = False
) -> FileDataset:
    """The images of the class folders below a folder, their headers checked.

    Args:
        root: a folder with one folder per class.
        classes: the known class names; their places are the labels.
        findings: told of what was not taken and what can't be read.
        reading: how images are read.
        where: what names begin with in messages: ``train``.
        allow_empty: whether a class may have no image.

    Raises:
        DataError: for a folder of another name, no images at all or, unless allowed, of a class.
    """
    found = subfolders(root)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(f"{root}: class folders unknown to the training images: {_some(unknown)}")
    files: list[Path] = []
    labels: list[int] = []
    for name in found:
        inside = images_below(root / name, findings, root)
        files += inside
        labels += [classes.index(name)] * len(inside)
    if not files:
        raise DataError(f"{root}: no images in its class folders")
    empty = sorted(set(classes) - {classes[label] for label in labels})
    if empty and not allow_empty:
        raise DataError(
            f"{root}: no images of {_some(empty)}; put some there, remove the folder, or allow it by "
            "--data.allow_empty true"
        )
    if empty:
        findings.note(f"{where or root}: no images of {_some(empty)}")
    ignore_loose(root, findings, where)
    return _whole(FileDataset(files, labels, reading), root, findings, where)


def ignore_loose(root: Path, findings: Findings, where: str) -> None:
    """Tell of images that lie beside class folders, and so have no class."""
    loose = images_below(root, deep=False)
    if loose:
        findings.ignore("images outside the class folders", *[_name(where, file, root) for file in loose])


def _whole(images: FileDataset, root: Path, findings: Findings, where: str) -> FileDataset:
    """The images whose headers can be read, so that a broken file shows before the training and not in its midst."""
    if len(images) > CHECK_LIMIT:
        findings.note(f"{where or root}: {len(images):,} images, which are not checked beforehand")
        return images

    def complaint(file: Path) -> str:
        try:
            check_image(file, images.reading)
        except ImageError as error:
            return str(error).removeprefix(printable(f"{file}: "))
        return ""

    with ThreadPoolExecutor(8) as pool:
        complaints = list(pool.map(complaint, images.files))
    for file, text in zip(images.files, complaints, strict=True):
        if text:
            findings.problem(_name(where, file, root), text)
    return images.subset([index for index, text in enumerate(complaints) if not text])


def _name(where: str, file: Path, root: Path) -> str:
    return str(Path(where) / file.relative_to(root))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
