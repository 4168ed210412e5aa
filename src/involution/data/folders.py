"""Images in folders, one folder a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from involution.data.errors import DataError
from involution.data.images import CHECK_LIMIT, EXTENSIONS, ImageError, check_image, read_image

if TYPE_CHECKING:
    from PIL.Image import Image


class FileDataset(Dataset[tuple[Any, int]]):
    """Image files with their labels, read when asked for.

    Args:
        files: the image files.
        labels: class index of each.
    """

    def __init__(self, files: Sequence[Path], labels: Sequence[int]) -> None:
        self.files = list(files)
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_image(self.files[index]), self.labels[index]

    def subset(self, indices: Sequence[int]) -> FileDataset:
        """The samples of these indices, in their order."""
        return FileDataset([self.files[i] for i in indices], [self.labels[i] for i in indices])

    def check(self) -> None:
        """Read every header, so that a broken file shows before the training and not in its midst.

        Raises:
            DataError: naming the broken files.
        """
        if len(self.files) > CHECK_LIMIT:
            return
        with ThreadPoolExecutor(8) as pool:
            broken = [text for text in pool.map(_complaint, self.files) if text]
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            raise DataError(
                f"{len(broken)} of {len(self.files)} images can't be read: {'; '.join(broken[:3])}{more}; "
                "remove or replace them"
            )


def _complaint(file: Path) -> str:
    try:
        check_image(file)
    except ImageError as error:
        return str(error)
    return ""


def class_folders(root: Path) -> list[str]:
    """Names of the class folders below a folder, sorted."""
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{root} has no class folders; wanted one folder of images per class")
    return names


def read_folder(root: Path, classes: Sequence[str]) -> FileDataset:
    """The images of the class folders below a folder.

    Args:
        root: a folder with one folder per class.
        classes: the known class names; their places are the labels.

    Raises:
        DataError: for a folder of another name, or no images.
    """
    found = class_folders(root)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(f"{root}: class folders unknown to the training images: {', '.join(unknown[:5])}")
    is_image: Callable[[Path], bool] = lambda file: file.suffix.lower() in EXTENSIONS  # noqa: E731
    files: list[Path] = []
    labels: list[int] = []
    for name in found:
        inside = sorted(file for file in (root / name).rglob("*") if is_image(file))
        files += inside
        labels += [classes.index(name)] * len(inside)
    if not files:
        raise DataError(f"{root}: no images in its class folders (looked for {', '.join(EXTENSIONS)})")
    return FileDataset(files, labels)
