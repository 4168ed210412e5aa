"""The files of a data set that nothing used: counted and named by reason, whatever its format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from involution.data.findings import Findings, some
from involution.data.paths import RECORD
from involution.data.splits import words_of
from involution.data.walk import NO_IMAGES, is_rubbish, why_no_image

# more files than this are not counted
_LIMIT = 100_000


def tell_leftovers(
    root: Path, findings: Findings, stray: str, only: str | None = None, elsewhere: Iterable[Path] = ()
) -> None:
    """Name every file and folder in a data set that the findings do not know yet, each with its reason.

    A folder of which nothing is used is named as a whole.

    Args:
        root: the data set's folder.
        findings: knows what was used, and is told of the rest.
        stray: the reason for images: "images outside the class folders".
        only: the one split that is wanted; what belongs to another is told as such.
        elsewhere: further folders of the data set, outside its own.
    """
    _tell_made(root, findings)
    holding: set[str] = set()
    for file in findings.seen:
        above = os.path.dirname(file)
        while above not in holding:
            holding.add(above)
            above = os.path.dirname(above)
    start = os.path.abspath(root)
    folders = dict.fromkeys([start, *map(os.path.abspath, elsewhere)])
    unused = chain.from_iterable(_unused(folder, findings.seen, holding) for folder in folders)
    for told, (path, is_folder) in enumerate(unused):
        if told == _LIMIT:
            findings.note(f"{root}: more than {_LIMIT:,} files are not used; the others are not counted")
            return
        name = os.path.relpath(path, start)
        reason = _reason(Path(path), is_folder) or stray
        if only and any(words_of(part).split not in (None, only) for part in Path(name).parts):
            reason = f"of other splits than {only}"
        findings.ignore(reason, f"{name}/{_count(path)}" if is_folder else name)
    # of a large data set these are many
    findings.seen.clear()


def _tell_made(root: Path, findings: Findings) -> None:
    """Say which files among the data were made by a command of this package, such as pictures of predictions."""
    made: list[str] = []
    for folder in sorted({os.path.dirname(file) for file in findings.seen}):
        for name, size in _record(Path(folder, RECORD)):
            file = os.path.join(folder, name)
            if file in findings.seen and os.path.isfile(file) and os.path.getsize(file) == size:
                made.append(os.path.relpath(file, os.path.abspath(root)))
    if made:
        findings.note(
            f"among the data are files that commands of involution made, {some(sorted(set(made)))}: move them away if "
            "they are results"
        )


def _record(file: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of the files that commands made in a folder."""
    # a link would lead to somebody else's file, a pipe would wait
    if file.is_symlink() or not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name, size, *_ = json.loads(line)
        except (ValueError, TypeError):
            continue
        if isinstance(name, str) and isinstance(size, int):
            yield name, size


def _reason(path: Path, is_folder: bool) -> str:
    """Why a file or folder is not used; "" for an image."""
    if path.is_symlink() and (is_folder or not path.exists()):
        return "links to folders" if is_folder else "links that lead nowhere"
    if is_folder and not is_rubbish(path.name) and not path.name.startswith("."):
        return "folders"
    why = why_no_image(path)
    return "other files" if why == NO_IMAGES else why


def _unused(folder: str, seen: set[str], holding: set[str]) -> Iterator[tuple[str, bool]]:
    """The unused files, and whole folders (with true), of a folder that holds used ones."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder and entry.path in holding:
            yield from _unused(entry.path, seen, holding)
        elif entry.path not in seen:
            yield entry.path, is_folder


def _count(folder: str) -> str:
    """How many files are in and below a folder, in words: " (12 files)"."""
    if os.path.islink(folder):
        return ""
    count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
        if count > _LIMIT:
            return f" (more than {_LIMIT:,} files)"
    return f" ({count:,} file{'' if count == 1 else 's'})" if count else " (empty)"
