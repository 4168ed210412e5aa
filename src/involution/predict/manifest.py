"""The record of a large prediction in the folder of its parts: what it is of, and which parts are finished."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from involution.data.noticed import Noticed
from involution.engine.files import atomic_path, check_folder, make_folder
from involution.engine.folder_lock import NAME as LOCK
from involution.engine.folder_lock import FolderLock
from involution.engine.predictor import PredictError

NAME = "_manifest.jsonl"
# names of the files of parts
PART = re.compile(r"part-\d{6,}\.\w+")
_TEMPORARY = re.compile(r"\.(part-|_manifest).+\.tmp")
_CHUNK = 1 << 20
# what must be the same to go on, and how it is told
_SAME = ("command", "checkpoint", "inputs", "settings")


class Manifest:
    """Inside the context, this process alone works on a folder of parts.

    The first line of its file says what they are the parts of, each further one that a part is whole.

    Args:
        folder: of the parts; made if need be.
        job: what they are the results of: plain types under ``command``, ``checkpoint``, ``inputs``, ``settings``, …
        stamps: of the images of each part, as `Part` has them.

    Attributes:
        finished: number of a part -> what its line says.
        again: how many parts were whole, but their images changed since.
        changed: how many images did.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], stamps: Sequence[str]) -> None:
        self.folder = folder
        self.job = job
        self.finished: dict[int, dict[str, Any]] = {}
        self.again = self.changed = 0
        self._stamps = stamps
        self._lock = FolderLock(folder, "predicts", "another folder for --parts")

    def __enter__(self) -> Manifest:
        """Raise `PredictError` if the folder holds anything else, `FolderInUse` if another process works there."""
        check_parts_folder(self.folder)
        make_folder(self.folder)
        self._lock.__enter__()
        try:
            self._clear()
            self._read()
            # also without a line that was cut off
            self._write_all()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def add(self, line: dict[str, Any]) -> None:
        """Record a part that is whole.

        Raises:
            OSError: if the record can't be written.
        """
        self._lock.check()
        with (self.folder / NAME).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished[line["part"]] = line

    def errors(self) -> Counter[str]:
        """How many rows of the finished parts have an error, by its kind."""
        return sum((Counter(line["errors"]) for line in self.finished.values()), Counter())

    def noticed(self) -> Noticed:
        """What was noticed of the images of all finished parts."""
        found = Noticed()
        for number in sorted(self.finished):
            # what an earlier version wrote has none
            found.merge(Noticed.from_dict(self.finished[number].get("noticed", Noticed().to_dict())))
        return found

    def _clear(self) -> None:
        """Remove what processes were writing that were killed."""
        for entry in list(self.folder.iterdir()):
            if _TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    entry.unlink()

    def _read(self) -> None:
        found = read(self.folder)
        if found is None:
            return
        job, lines = found
        # what has no results yet can be anything
        different = next((name for name in _SAME if job.get(name) != self.job[name]), None) if lines else None
        if different:
            raise PredictError(
                f"{self.folder} holds parts of another prediction ({_difference(different, job, self.job)}); "
                "choose another folder for --parts, or ask for the same to go on"
            )
        for line in lines if job.get("parts") == self.job["parts"] else []:
            file = self.folder / line["file"]
            size = file.stat().st_size if file.is_file() else 0
            # a power failure may leave a file empty though its line is there
            if not size or line["part"] not in range(job["parts"]):
                continue
            edited = f"{line['bytes']:,} bytes then, {size:,} now" if size != line["bytes"] else _edited(file, line)
            if edited:
                raise PredictError(
                    f"{file} was changed since it was written ({edited}); move it away, or delete it, and its rows are "
                    "made again"
                )
            changed = _changed(line["stamps"], self._stamps[line["part"]])
            self.again += changed > 0
            self.changed += changed
            if not changed:
                self.finished[line["part"]] = line

    def _write_all(self) -> None:
        with (
            atomic_path(self.folder / NAME, replace=True) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            file.writelines(f"{json.dumps(line)}\n" for line in (self.job, *self.finished.values()))
            file.flush()
            os.fsync(file.fileno())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._clear()
        self._lock.__exit__(kind, error, trace)


def _edited(file: Path, line: Mapping[str, Any]) -> str:
    """What tells that a part of the right size holds something else; "" for nothing."""
    # what was only copied is read; an earlier version wrote neither
    known = line.get("modified") in (None, file.stat().st_mtime_ns)
    return "" if known or checksum(file) == line.get("crc32") else f"{line['bytes']:,} other bytes then"


def checksum(file: Path) -> int:
    """A number that changes with what a file holds."""
    found = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def check_parts_folder(folder: Path) -> None:
    """Refuse a place where parts can't be written, before the work; makes nothing.

    Raises:
        PredictError: If the folder holds anything but parts of a prediction.
        OSError: If it can't be made or written to.
    """
    check_folder(folder)
    if not folder.is_dir():
        return
    names = {entry.name for entry in folder.iterdir()}
    if NAME not in names and any(name != LOCK and not _TEMPORARY.fullmatch(name) for name in names):
        raise PredictError(f"{folder} already has files; choose another folder for --parts")
    read(folder)


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """What a folder's parts are of, and the line of each finished one; None for a folder without parts.

    Raises:
        PredictError: for a record that is none.
    """
    file = Path(folder) / NAME
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    lines = []
    for line in text.splitlines():
        # the last one may have been cut off
        with suppress(ValueError):
            lines.append(json.loads(line))
    job, parts = (lines[0], lines[1:]) if lines else ({}, [])
    right = isinstance(job, dict) and "parts" in job and all(map(_is_line, parts))
    if not right:
        raise PredictError(f"{file} is not the record of a prediction; choose another folder for --parts")
    return job, parts


def _is_line(line: Any) -> bool:
    wanted = {"part": int, "file": str, "rows": int, "bytes": int, "errors": dict, "stamps": str}
    if not isinstance(line, dict) or not all(isinstance(line.get(name), kind) for name, kind in wanted.items()):
        return False
    try:
        Noticed.from_dict(line.get("noticed", Noticed().to_dict()))
    except ValueError:
        return False
    numbers = [*line["errors"].values(), line.get("modified", 0), line.get("crc32", 0)]
    return all(isinstance(count, int) for count in numbers)


def _changed(before: str, now: str) -> int:
    """How many images have other stamps."""
    return sum(before[place : place + 8] != now[place : place + 8] for place in range(0, len(now), 8))


def _difference(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, and how, in words."""
    one, other = before.get(name), now[name]
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return f"{name} {one} there, {other} here"
    key = next((key for key in other if one.get(key) != other[key]), name)
    there, here = one.get(key), other.get(key)
    if key == "sha256":
        what = "other weights" if name == "checkpoint" else "other images"
        return f"{what}: {name} with SHA-256 {str(there)[:8]}… there, {str(here)[:8]}… here"
    return f"{key} {there} there, {here} here"
