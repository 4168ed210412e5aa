"""The images of a large prediction, by where they are: files, rows of Parquet tables, members of tar files."""

from __future__ import annotations

import glob
import hashlib
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from involution.data.errors import printable
from involution.data.fields import tell_unread
from involution.data.findings import Findings
from involution.data.images import is_image
from involution.data.numbering import tell_holes
from involution.data.walk import files_below
from involution.engine.predictor import PredictError, find_images, not_found
from involution.predict.manifest import PART, read
from involution.predict.tables import Table, find_column

_TABLE, _SHARD = "parquet", "webdataset"
_SUFFIXES = {".parquet": _TABLE, ".tar": _SHARD}
_SHOWN = 10
# texts that hold paths as a rule
_LISTS = (".csv", ".tsv", ".txt", ".json", ".jsonl")
_NO_LIST = "lists of paths are read as Parquet alone: save it as such, or name the images, their folders or a pattern"


@dataclass(frozen=True)
class Piece:
    """Images that follow each other in one place.

    Attributes:
        source: the table or tar file; empty for files that are listed.
        start: the place of the first of them in it.
        count: how many there are.
        files: the listed files.
        column: of a table; empty for a tar file.
        header: byte at which the first one's header begins, in a tar file.
    """

    source: str
    start: int
    count: int
    files: Sequence[str] = ()
    column: str = ""
    header: int = 0


@dataclass(frozen=True)
class Part:
    """Images whose results go into one file.

    Attributes:
        number: from 0 on.
        start: the number of its first image among all.
        pieces: where its images are.
        stamps: eight digits for each of its images, which change when its file does.
    """

    number: int
    start: int
    pieces: Sequence[Piece]
    stamps: str = ""

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(piece.count for piece in self.pieces)

    def to_dict(self) -> dict[str, Any]:
        """In plain types, for another process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Part:
        """What `to_dict` returned."""
        pieces = [Piece(**piece) for piece in plain["pieces"]]
        return cls(plain["number"], plain["start"], pieces, plain["stamps"])


@dataclass(frozen=True)
class _Source:
    """All images of one place.

    Attributes:
        whole: all of them.
        stamps: a number for each image, which changes when its file does.
        mark: what tells it from another one.
        headers: of a tar file, where each image's header begins.
    """

    whole: Piece
    stamps: Sequence[int]
    mark: str = ""
    headers: Sequence[int] = ()

    def cut(self, start: int, count: int) -> Piece:
        whole = self.whole
        header = self.headers[start] if self.headers else 0
        return Piece(whole.source, start, count, whole.files[start : start + count], whole.column, header)

    def digits(self, start: int, count: int) -> str:
        return "".join(f"{stamp:08x}" for stamp in self.stamps[start : start + count])


@dataclass
class Inputs:
    """All images of a prediction, in their order.

    Attributes:
        specs: what the user named, absolute.
        count: how many images there are.
        sha256: of where they are, whatever they hold.
    """

    specs: list[str]
    sources: list[_Source] = field(repr=False)

    def __post_init__(self) -> None:
        self.count = sum(source.whole.count for source in self.sources)
        marks = hashlib.sha256()
        for source in self.sources:
            for name in (source.mark, *source.whole.files):
                marks.update(os.fsencode(name) + b"\n")
        self.sha256 = marks.hexdigest()

    def parts(self, rows: int) -> list[Part]:
        """Cut them into parts of so many images; the last one may have fewer."""
        parts: list[Part] = []
        pieces: list[Piece] = []
        stamps, room = "", rows
        for source in self.sources:
            taken = 0
            while taken < source.whole.count:
                piece = source.cut(taken, min(room, source.whole.count - taken))
                pieces.append(piece)
                stamps += source.digits(taken, piece.count)
                taken, room = taken + piece.count, room - piece.count
                if room == 0:
                    parts.append(Part(len(parts), len(parts) * rows, pieces, stamps))
                    pieces, stamps, room = [], "", rows
        return [*parts, Part(len(parts), len(parts) * rows, pieces, stamps)] if pieces else parts


def find_inputs(specs: Iterable[str | Path], column: str | None = None, findings: Findings | None = None) -> Inputs:
    """Find the images of a prediction: listed files first, then those in tables and tar files.

    Args:
        specs: files, folders and glob patterns of images, of Parquet tables (``*.parquet``) and of WebDataset shards
            (``*.tar``, brace patterns too); ``parquet:PATH`` and ``webdataset:PATH`` also take what is below a folder.
        column: of tables, with paths or contents of files; by default one of the usual names.
        findings: told what was not taken, and why.

    Raises:
        PredictError: if nothing is found for one of them.
        DataError: for a table or a tar file that can't be read, or a table without such a column.
        MissingExtra: for tables, where pyarrow is missing.
    """
    words = list(map(str, specs))
    files: dict[str, None] = {}
    places: dict[tuple[str, str], None] = {}
    unmatched = []
    for spec in words:
        kind, path = _kind(spec)
        found: Sequence[str | Path]
        if kind:
            found = _without_parts(path, _expand(kind, path, findings), findings)
            places.update(((kind, os.path.abspath(place)), None) for place in found)
        else:
            found = find_images([spec], findings)[0]
            files.update((os.path.abspath(file), None) for file in found)
        unmatched += [] if found else [not_found(path if kind else spec)]
    if unmatched:
        raise PredictError("; ".join(unmatched[:_SHOWN]))
    # one among images costs these nothing
    if files and not places and all(file.lower().endswith(_LISTS) and not is_image(file) for file in files):
        raise PredictError(f"{printable(words[0])}: {_NO_LIST}")
    sources = [_Source(Piece("", 0, len(files), tuple(files)), array("I", map(_stamp, files)))] if files else []
    others: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    tails: list[Path] = []
    for kind, place in places:
        sources.append(_table(place, column, columns) if kind == _TABLE else _shard(place, others, tails))
    if findings is not None:
        tell_holes((place for _, place in places), findings)
        if tails:
            from involution.data.shards import tell_tails

            tell_tails(tails, findings)
        tell_unread(others, "members", "tar files", findings)
        tell_unread(columns, "columns", "tables", findings)
    inputs = Inputs([_absolute(word) for word in words], sources)
    if not inputs.count:
        raise PredictError(f"no images found in {', '.join(map(printable, words[:_SHOWN]))}")
    return inputs


def holds_tables(specs: Iterable[str | Path]) -> str | None:
    """The first of these that stands for tables or tar files, if there is one."""
    return next((spec for spec in map(str, specs) if _kind(spec)[0]), None)


def holds_parquet(specs: Iterable[str | Path]) -> bool:
    """Whether one of these stands for tables."""
    return any(_kind(str(spec))[0] == _TABLE for spec in specs)


def _kind(spec: str) -> tuple[str, str]:
    """Whether a word stands for tables or tar files, and where; ``""`` for images."""
    kind, colon, path = spec.partition(":")
    if colon and kind in _SUFFIXES.values() and not os.path.exists(spec):
        return kind, path
    return _SUFFIXES.get(os.path.splitext(spec)[1].lower(), ""), spec


def _absolute(spec: str) -> str:
    kind, path = _kind(spec)
    path = os.path.abspath(path)
    return f"{kind}:{path}" if kind else path


def _expand(kind: str, path: str, findings: Findings | None) -> list[str]:
    suffix = next(suffix for suffix, its in _SUFFIXES.items() if its == kind)
    root = Path(path)
    if root.is_dir():
        # as Spark names what is not yet, or no more, part of a table
        return list(map(str, files_below(root, suffix, findings, "_")))
    if root.exists() or "://" in path:
        return [path] if root.exists() else []
    if kind == _SHARD and "{" in path:
        from webdataset.shardlists import expand_urls

        # one that is missing is told as such
        return list(expand_urls(path))
    found = sorted(glob.glob(path, recursive=True))
    # as Spark names what is not yet, or no more, there; what the pattern itself names so is meant
    named = [part for part in root.parts if part.startswith("_")]
    skipped = [
        file
        for file in found
        if any(part.startswith("_") and not any(fnmatch(part, own) for own in named) for part in Path(file).parts)
    ]
    if skipped and findings is not None:
        findings.ignore("names that begin with _", *skipped)
    return [file for file in found if file not in set(skipped)]


def _without_parts(named: str, files: list[str], findings: Findings | None) -> list[str]:
    """Of the tables that a folder or a pattern stands for those that `predict --parts` did not write."""
    made: dict[str, bool] = {}
    for folder in {os.path.dirname(file) for file in files}:
        # what can't be read is no record
        with suppress(PredictError, OSError):
            made[folder] = read(folder) is not None
    parts = [file for file in files if made.get(os.path.dirname(file)) and PART.fullmatch(os.path.basename(file))]
    # by its own name a table is taken, whatever it is
    if not parts or named in parts:
        return files
    if findings is not None:
        findings.ignore("parts of an earlier prediction", *parts)
    return [file for file in files if file not in set(parts)]


def _table(file: str, column: str | None, others: Counter[str]) -> _Source:
    name, rows, rest = find_column(file, column)
    others.update(rest)
    own = _stamp(file)
    stamps = array("I", [own]) * rows
    table = Table(file, name)
    if table.holds_paths:
        images = table.images(0, rows)
        stamps = array("I", (_stamp(image, own) if isinstance(image, str) else own for image in images))
    return _Source(Piece(file, 0, rows, column=name), stamps, f"{file} {rows} {name}")


def _shard(file: str, others: Counter[str], tails: list[Path]) -> _Source:
    from involution.data.shards import shard_images

    # eight bytes for each of a million
    headers = array("q", (image.header for image in shard_images(Path(file), others=others, tails=tails)))
    stamps = array("I", [_stamp(file)]) * len(headers)
    return _Source(Piece(file, 0, len(headers)), stamps, f"{file} {len(headers)}", headers)


def _stamp(file: str, start: int = 0) -> int:
    """A number of 32 bits that stands for a file's size and time of change; the start where there is no file."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return start
    return zlib.crc32(f"{found.st_size} {found.st_mtime_ns}".encode(), start)
