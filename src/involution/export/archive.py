"""PyTorch's .pt2 archives, which hold a program or compiled code: reading what they say without running anything."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

from involution.export.errors import ExportError
from involution.export.metadata import KEY, MOST_BYTES

_COMPILED = "/data/aotinductor/"


def is_archive(path: Path, compiled: bool) -> bool:
    """Whether a file is an archive with compiled code, or with a program."""
    names = _names(path)
    return bool(names) and any(_COMPILED in name for name in names) == compiled


def read_entry(path: Path) -> str | None:
    """The JSON of an archive's metadata; None where there is none."""
    for name in _names(path):
        if name.endswith(f"/extra/{KEY}.json"):
            return _read(path, name)
        if _COMPILED in name and name.endswith("_metadata.json"):
            try:
                found = json.loads(_read(path, name))
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get(KEY), str):
                return str(found[KEY])
    return None


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []
    return names if any(name.endswith("/archive_format") for name in names) else []


def _read(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(name).file_size
        if size > MOST_BYTES:
            raise ExportError(f"{path}: what it says of itself has {size:,} bytes; at most {MOST_BYTES:,} are read")
        try:
            return archive.read(name).decode("utf-8", errors="replace")
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ExportError(f"{path}: damaged: {error}") from error
