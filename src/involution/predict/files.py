"""What predictions of every task share: finding image files, devices, and images that can't be read."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch


class PredictError(ValueError):
    """A prediction that can't be done as asked."""


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be read, and why."""

    file: str
    reason: str


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes an accelerator if there is one.

    Raises:
        PredictError: If there is no such device.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PredictError(
            f"no device named {name!r}; wanted auto, cpu{f' or {found.type}' if found else ''}"
        ) from error
    count = torch.accelerator.device_count() if found is not None and device.type == found.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise PredictError(
            f"device {name} is not there: this machine has cpu{f' and {found.type}' if found else ' only'}"
        )
    return device


def find_images(sources: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """Turn files, folders and glob patterns into a list of files.

    A folder stands for all image files in and below it, by suffix and sorted; a file is taken whatever its
    suffix; anything else is a glob pattern (`**` for all folders below). The sources keep their order, and a
    file that appears twice is taken once.

    Returns:
        The files, and the sources that matched nothing.
    """
    files: dict[Path, None] = {}
    unmatched = []
    for source in sources:
        path = Path(source)
        # a name that exists is that file, even with brackets or stars in it
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(source), recursive=True))]
        found = [file for match in matches for file in (_images_below(match) if match.is_dir() else [match])]
        files.update(dict.fromkeys(found))
        if not found:
            unmatched.append(str(source))
    return list(files), unmatched


def _images_below(folder: Path) -> list[Path]:
    from involution.data.images import EXTENSIONS

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def results_format(path: str | Path) -> str:
    """The suffix that tells how `write_results` writes to this path: .json or .csv.

    Raises:
        PredictError: If it is neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".csv"):
        raise PredictError(f"wanted an output file that ends in .json or .csv, got {str(path)!r}")
    return suffix
