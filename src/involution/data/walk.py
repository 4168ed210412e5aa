"""Finding the images below a folder, by what they hold and not by their names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.images import EXTENSIONS, is_image
from involution.data.paths import why_unreadable

# files of other kinds that lie beside images, known without a look inside
_OTHERS = (
    *(
        ".txt",
        ".xml",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".yaml",
        ".yml",
        ".md",
        ".html",
        ".py",
        ".ipynb",
        ".ini",
        ".db",
    ),
    *(".pdf", ".zip", ".gz", ".tar", ".npy", ".npz", ".mat", ".pt", ".pth", ".ckpt", ".cache", ".mp4", ".mov", ".avi"),
)


def images_below(
    folder: Path, findings: Findings | None = None, root: Path | None = None, deep: bool = True
) -> list[Path]:
    """The image files in and below a folder, sorted.

    A file with a known suffix counts as an image, whatever it holds; any other counts where its content is one. Links
    to folders are followed, each folder once.

    Args:
        folder: the folder.
        findings: told what was not taken, and why.
        root: the folder that names are told from; the folder itself by default.
        deep: look into the folders below, too.

    Raises:
        DataError: for a folder that can't be read.
    """
    findings = findings if findings is not None else Findings()
    root = root or folder
    found: list[Path] = []
    backups: list[Path] = []
    for path in _files(folder, set(), deep):
        name = os.path.relpath(path, root)
        if path.name.startswith("."):
            findings.ignore("hidden", name)
        elif path.name.endswith("~") and path.with_name(path.name.rstrip("~")).exists():
            backups.append(path)
        elif path.suffix.lower() in EXTENSIONS or (path.suffix.lower() not in _OTHERS and is_image(path)):
            found.append(path)
        else:
            why = why_unreadable(path, empty=True)
            findings.ignore(why or "no images", name)
    if backups:
        findings.ignore("backup copies of an editor", *[os.path.relpath(path, root) for path in backups])
    return sorted(found)


def _files(folder: Path, seen: set[tuple[int, int]], deep: bool) -> Iterator[Path]:
    try:
        key = os.stat(folder)
        if (key.st_dev, key.st_ino) in seen:
            return
        seen.add((key.st_dev, key.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be opened ({error.strerror or error})") from error
    for entry in entries:
        try:
            below = entry.is_dir()
        except OSError:
            below = False
        if below and not entry.name.startswith("."):
            if deep:
                yield from _files(Path(entry.path), seen, deep)
        else:
            yield Path(entry.path)
