"""Folders of outputs: which name the files of each image get, which file belongs to which image, and what failed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from involution.data.addresses import listed, path_of
from involution.data.images import ImageError
from involution.engine.files import (
    Origin,
    atomic_path,
    check_folder,
    check_free,
    in_the_way,
    is_ours,
    made_in,
    made_of,
    write_record,
)

# in a folder of outputs: a line for each image, with its outputs
INDEX = "index.jsonl"
# bytes of a name; with what is added to it, file systems take 255
_LONGEST = 160
_MAX_TOLD = 10


def free_names(
    folder: str | os.PathLike[str], wanted: Sequence[tuple[str, Origin]], endings: Sequence[str]
) -> list[str]:
    """Choose names in a folder so that no results are lost: an image's own is kept, another's is left alone.

    A name that holds results of other inputs gets a number. Nothing is written.

    Args:
        folder: the folder, which need not exist.
        wanted: the name without ending that each file or group of files should have, and its origin.
        endings: of the files of a group, such as ``.png``.

    Returns:
        A name without ending for each of them.

    Raises:
        OSError: for a place that can't be written to, a file that this package did not make, or results of the same
            image by another command or network.
    """
    check_folder(folder)
    made = made_in(folder)
    # a file system may take upper and lower case for the same
    folded = {name.casefold(): name for name in made}
    before = {
        (origin.command, origin.checkpoint, origin.inputs[:1]): name.removesuffix(ending)
        for name, origin in made.items()
        for ending in endings
        if origin is not None and name.endswith(ending)
    }
    taken: set[str] = set()
    numbers: dict[str, Iterator[int]] = {}
    names = []
    with listed(path_of(folder)):
        for stem, origin in wanted:
            stem = _shortened(stem)
            counter = numbers.setdefault(stem, count(1))
            name = before.get((origin.command, origin.checkpoint, origin.inputs[:1]), "")
            if not (name == stem or name.startswith(f"{stem}-")) or name.casefold() in taken:
                name = _numbered(stem, next(counter))
            with made_of(origin):
                while name.casefold() in taken or not _is_free(path_of(folder), name, endings, origin, folded):
                    name = _numbered(stem, next(counter))
            taken.add(name.casefold())
            names.append(name)
    return names


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def _shortened(stem: str) -> str:
    while len(os.fsencode(stem)) > _LONGEST:
        stem = stem[:-1]
    return stem


def _is_free(folder: Path, name: str, endings: Sequence[str], origin: Origin, folded: Mapping[str, str]) -> bool:
    for file in (f"{name}{ending}" for ending in endings):
        other = in_the_way(folder / file)
        if other is not None and other.inputs[:1] == origin.inputs[:1] and not _same_maker(other, origin):
            check_free(folder / file)
        if other is not None or folded.get(file.casefold(), file) != file:
            return False
    return True


def _same_maker(one: Origin, other: Origin) -> bool:
    return (one.command, one.checkpoint) == (other.command, other.checkpoint)


def check_index(folder: str | os.PathLike[str]) -> None:
    """Raise `FileExistsError` for an index that somebody else made or changed."""
    check_free(path_of(folder) / INDEX)


def write_index(folder: str | os.PathLike[str], errors: Sequence[tuple[Origin, str]] = ()) -> dict[str, Origin]:
    """Write which files in a folder belong to which image, those of earlier commands included.

    JSON lines: ``{"input", "outputs" or "error", "command", "checkpoint", "also"}``, the last two where there is a
    network, and where more than the image went into the files.

    Args:
        folder: the folder.
        errors: what has no files, and why.

    Returns:
        The names of the files, with what they are the results of.
    """
    made = {
        name: origin
        for name, origin in made_in(folder).items()
        if origin is not None and origin.inputs and is_ours(path_of(folder) / name)
    }
    lines: dict[Origin, dict[str, Any]] = {}
    for name, origin in made.items():
        lines.setdefault(origin, {"input": origin.inputs[0], "outputs": []})["outputs"].append(name)
    for origin, reason in errors:
        lines.setdefault(origin, {"input": origin.inputs[0]})["error"] = reason
    for origin, line in lines.items():
        line["command"] = origin.command
        line |= {"checkpoint": origin.checkpoint} if origin.checkpoint else {}
        line |= {"also": origin.inputs[1:]} if origin.inputs[1:] else {}
    ordered = sorted(lines.values(), key=lambda line: (line["input"], line["command"], line.get("checkpoint", "")))
    with (
        made_of(None),
        atomic_path(path_of(folder) / INDEX) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered)
    write_record(folder)
    return made


class Attempts:
    """Several files to write: one that can't be written is told, and costs none of the others.

    Args:
        tell: is called with a line for each of the first ten.

    Attributes:
        failed: how many could not be written.
        reason: why the last of them could not.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.tell = tell
        self.failed = 0
        self.reason = ""

    @contextmanager
    def one(self) -> Iterator[None]:
        """Write one of them inside."""
        try:
            yield
        except OSError as error:
            # an error without a file is not about writing one
            if error.filename is None:
                raise
            self._count(error.strerror or str(error), f"{os.fsdecode(error.filename)}: ")
        except ImageError as error:
            # an image that is drawn on may have gone since it was read
            self._count(str(error))

    def _count(self, reason: str, file: str = "") -> None:
        self.failed, self.reason = self.failed + 1, reason
        if self.failed <= _MAX_TOLD:
            self.tell(f"not written: {file}{reason}")

    def end(self) -> None:
        """Tell how many more there were."""
        if self.failed > _MAX_TOLD:
            self.tell(f"not written: {self.failed - _MAX_TOLD:,} more")
