"""The image files behind boxes: found by the names that annotations give, and compared with the sizes they state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from involution.data.addresses import is_remote
from involution.data.findings import Findings, some
from involution.data.images import CHECK_LIMIT, Header, ImageError, Reading, look
from involution.data.noticed import tell_headers
from involution.data.paths import as_stored
from involution.data.text import nfc
from involution.data.walk import images_below

Size = tuple[int, int]


class ImageNames:
    """Finds the image file that an annotation means.

    A name is a path below one of the folders; as tools of labelling write it, it may have backslashes, be URL-encoded,
    or lead elsewhere: be absolute, a whole address, or begin with ``..``. Then the one file of its base name is taken;
    a file outside the folders never is. Where a folder that the name gives is here, its file must be in it. A file
    whose name differs by its case alone, as Windows takes it, is taken where there is no other.

    Args:
        folders: where to look, in this order; base names are looked for in and below the first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self.by_base_name: list[str] = []
        self.by_last_parts: list[str] = []
        self.by_other_case: list[str] = []
        # base names that lie in several folders elsewhere
        self._shared: set[str] = set()
        self._index: dict[str, list[Path]] | None = None
        self._listings: dict[Path, dict[str, list[Path]]] = {}

    def expect(self, names: Iterable[object]) -> None:
        """Know all names beforehand: of a base name that is in several folders, the folder's name must fit, too."""
        folders: dict[str, set[str]] = {}
        for name in names:
            if isinstance(name, str):
                place = PurePosixPath(_plain(name)[1])
                folders.setdefault(_folded(place.name), set()).add(str(place.parent))
        self._shared = {name for name, found in folders.items() if len(found) > 1}

    def find(self, name: object) -> Path | str:
        """The file of that name, or why there is none."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            return f"file_name {name!r} is not a path inside the folder of images"
        slashed, plain = _plain(name)
        elsewhere = plain.startswith("/") or PureWindowsPath(plain).is_absolute() or "://" in slashed
        elsewhere = elsewhere or ".." in PurePosixPath(plain).parts
        inside = self._inside(plain) if elsewhere and "://" not in slashed else None
        for candidate in (inside,) if inside else () if elsewhere else (name, slashed, plain):
            for folder in self.folders:
                if (file := as_stored(folder / candidate)).is_file():
                    return file
                if (other := self._in_other_case(file)) is not None:
                    return self._tell_case(name, other)
        missing = f"no such file: {name if elsewhere else self.folders[0] / plain}"
        own = PurePosixPath(inside or ("" if elsewhere else plain)).parent
        if inside or (own.parts and any((folder / own).is_dir() for folder in self.folders)):
            return missing
        found = self._by_base_name(PurePosixPath(plain).name) or self._by_base_name(PurePosixPath(slashed).name)
        # the folders above may tell which is meant
        depths = [_common(file, plain) for file in found]
        least = 2 if _folded(PurePosixPath(plain).name) in self._shared else 1
        best = [file for file, depth in zip(found, depths, strict=True) if depth == max(depths) and depth >= least]
        if len(best) == 1:
            (self.by_base_name if least == 1 and len(found) == 1 else self.by_last_parts).append(name)
            return self._tell_case(name, best[0])
        if best:
            return f"file_name {name!r} could be any of {len(best)} files of that name"
        return missing

    def _inside(self, name: str) -> str | None:
        """An absolute name as one below the folders, if it leads there."""
        if ".." in PurePosixPath(name).parts:
            return None
        for folder in self.folders:
            for root in () if is_remote(folder) else (os.path.abspath(folder), os.path.realpath(folder)):
                if Path(name).is_relative_to(root):
                    return Path(name).relative_to(root).as_posix()
        return None

    def _by_base_name(self, name: str) -> list[Path]:
        if self._index is None:
            self._index = {}
            for file in images_below(self.folders[0]) if self.folders[0].is_dir() else []:
                self._index.setdefault(_folded(file.name), []).append(file)
        found = self._index.get(_folded(name), [])
        return [file for file in found if nfc(file.name) == nfc(name)] or found

    def _in_other_case(self, file: Path) -> Path | None:
        """The one file of a folder whose name differs from this by its case alone."""
        if file.parent not in self._listings:
            found: dict[str, list[Path]] = {}
            for other in file.parent.iterdir() if file.parent.is_dir() else ():
                found.setdefault(_folded(other.name), []).append(other)
            self._listings[file.parent] = found
        alike = self._listings[file.parent].get(_folded(file.name), [])
        return alike[0] if len(alike) == 1 and alike[0].is_file() else None

    def _tell_case(self, name: str, file: Path) -> Path:
        base = PurePosixPath(_plain(name)[1]).name
        if nfc(base) != nfc(file.name) and _folded(base) == _folded(file.name):
            self.by_other_case.append(f"{base} is {file.name}")
        return file

    def tell(self, findings: Findings, where: str) -> None:
        """Say which names were found by a part of them, or in another case."""
        for how, names in (
            ("by the last part of their name", self.by_base_name),
            ("by the last parts of their path", self.by_last_parts),
            ("by a name in another case", self.by_other_case),
        ):
            if names:
                findings.note(f"{where}: image files found {how}: {some(names)}")


def _folded(name: str) -> str:
    """A name without its case."""
    return nfc(name).casefold()


def _plain(name: str) -> tuple[str, str]:
    """A name with slashes, and the same without the encoding of addresses."""
    # local files of Label Studio: /data/local-files/?d=folder/name.png
    slashed = name.replace("\\", "/").rpartition("?d=")[2]
    return slashed, unquote(urlsplit(slashed).path if "://" in slashed else slashed)


def _common(file: Path, name: str) -> int:
    """How many of the last parts of two paths are the same; the last one is."""
    pairs = zip(file.parts[-2::-1], PurePosixPath(name).parts[-2::-1], strict=False)
    return 1 + sum(1 for _ in takewhile(lambda pair: nfc(pair[0]) == nfc(pair[1]), pairs))


def check_files(
    files: Sequence[tuple[str, Path, Size | None]], reading: Reading, findings: Findings, where: str
) -> list[Size | None]:
    """Compare image files with the sizes that their annotations state.

    Args:
        files: what an entry is called, its file, and the width and height that the annotations are for, None for those
            of the file.
        reading: how images are read.
        findings: told of each file that can't be read or has another size.
        where: what messages begin with: ``train``.

    Returns:
        Width and height of each image, None for one that was complained about.
    """
    few = len(files) <= CHECK_LIMIT
    if not few:
        findings.note(f"{where}: {len(files):,} images, which are not checked beforehand")

    def check(item: tuple[str, Path, Size | None]) -> Header | str | None:
        _, file, size = item
        if not few and size is not None:
            return None
        try:
            return look(file, reading)
        except ImageError as error:
            return str(error)

    findings.saw(*[file for _, file, _ in files])
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(check, files))
    sizes: list[Size | None] = []
    whole: list[tuple[Path, Header]] = []
    for (entry, file, size), header in zip(files, headers, strict=True):
        reason = header if isinstance(header, str) else None
        if isinstance(header, Header):
            reason = size_complaint(file, size, header, reading)
            whole += [] if reason else [(file, header)]
        if reason:
            findings.problem(entry, reason)
        sizes.append(None if reason else header.size if isinstance(header, Header) else size)
    tell_headers(whole, reading, findings, where, "boxes are")
    return sizes


def size_complaint(file: Path, size: Size | None, header: Header, reading: Reading) -> str | None:
    """What is wrong with an image whose annotations are for this size, None for nothing or no size."""
    if size is None or size == header.size:
        return None
    shown, wanted = (f"{pair[0]} x {pair[1]}" for pair in (header.size, size))
    # the size with the other setting
    upright = header.stored[::-1] if header.orientation >= 5 else header.stored
    if size == (header.stored if reading.exif == "apply" else upright):
        doing, other = ("turns", "ignore") if reading.exif == "apply" else ("would turn", "apply")
        return (
            f"{file.name} has {shown} pixels, but its annotations are for {wanted}: EXIF orientation "
            f"{header.orientation} {doing} it; fix the annotations, or train with --data.exif {other}"
        )
    return f"{file.name} has {shown} pixels, not {wanted}"
