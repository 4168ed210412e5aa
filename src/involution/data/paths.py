"""Files that may be anything: missing, links in a circle, pipes, devices, or not ours to read."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from involution.data import addresses
from involution.data.addresses import is_remote
from involution.data.errors import DataError

# what the commands keep beside their files: what they made in this folder, a line each
RECORD = ".involution-files.jsonl"
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_KINDS = (
    (stat.S_ISDIR, "is a folder, not a file"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
)


def why_unreadable(path: str | os.PathLike[str], empty: bool = False) -> str:
    """Why a path is no file that can be read, in words; "" where it is one.

    Never opens it: a named pipe would wait for ever.

    Args:
        path: the path.
        empty: whether an empty file will do.
    """
    if is_remote(path):
        return addresses.why_unreadable(path, empty)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:
        # a circle of links, a folder that may not be entered, a stale handle, a name too long or with a zero byte
        return f"can't be opened ({getattr(error, 'strerror', None) or error})"
    for matches, words in _KINDS:
        if matches(found.st_mode):
            return words
    return "" if found.st_size or empty else "the file is empty (0 bytes)"


def as_stored(path: Path) -> Path:
    """The path of a file whose name may be written with its accents composed or apart; the path itself without one."""
    if path.exists() or str(path).isascii():
        return path
    others = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((other for other in others if other.exists()), path)


def need_folder(path: Path) -> None:
    """Refuse a path that is no folder.

    Raises:
        DataError: naming what is there instead.
    """
    if is_folder(path):
        return
    if path.exists():
        hint = "; unpack it and name the folder" if path.suffix.lower() in ARCHIVES else ""
        raise DataError(f"{path}: wanted a folder, got a file{hint}")
    raise DataError(f"no such folder: {path}")


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False where that can't be said."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
