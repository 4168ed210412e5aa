"""Writing files: whole or not at all, and never over a file that this package did not make."""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# beside the files: what was made in this folder, a line each
RECORD = ".involution-files.jsonl"
# folder -> size of its record when it was read, and what the record holds
_READ: dict[Path, tuple[int, dict[str, Any]]] = {}


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and its parents, if it doesn't exist yet.

    Raises:
        OSError: if it can't be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is wanted", str(folder)) from error
    if not os.access(folder, os.W_OK):
        number = errno.EROFS if _is_read_only(folder) else errno.EACCES
        raise OSError(number, os.strerror(number), str(folder))


def _is_read_only(folder: Path) -> bool:
    # Windows has no statvfs
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise `OSError` now if a file can't be written later, after hours of work.

    Raises:
        OSError: for a folder, a place that can't be written to, or a file that is somebody else's.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder is where a file is wanted", str(target))
    make_folder(target.parent)
    check_free(target)


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise `FileExistsError` for a file that this package did not make, or that was changed since."""
    target = Path(path)
    final = Path(os.path.realpath(target))
    # a device or a pipe has nothing to lose
    if not final.is_file():
        return
    if not is_ours(final):
        raise FileExistsError(
            errno.EEXIST, "not overwritten: involution did not make this file; choose another place", str(target)
        )


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file was made by this package, and not changed since."""
    final = Path(os.path.realpath(path))
    made = _made(final.parent).get(final.name)
    return made is not None and final.is_file() and made == [final.stat().st_size, final.stat().st_mtime_ns]


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A temporary file next to `path` that replaces it if the block succeeds, and is deleted otherwise.

    A link stays one: the file it leads to is replaced. A device or a pipe is written to as it is.

    Args:
        path: the file.
        replace: take the place of any file. For folders that belong to this package, such as a run's; elsewhere only a
            file that this package made is replaced.

    Raises:
        FileExistsError: for a file that is somebody else's.
        OSError: if it can't be written; `filename` is `path`, whatever the block did with which file.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        with _naming(target, target):
            yield target
        return
    make_folder(target.parent)
    final = Path(os.path.realpath(target))
    if not replace:
        check_free(target)
    # a name may be as long as the system allows, and ours adds to it
    temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.tmp")
    try:
        with _naming(target, temporary):
            yield temporary
            os.replace(temporary, final)
            if not replace:
                _remember(final)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text, whole or not at all.

    Raises:
        OSError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_all(*steps: Callable[[], object]) -> None:
    """Write several files, each whatever becomes of the others.

    Raises:
        OSError: if one can't be written; `filename` names all those.
    """
    failures: list[OSError] = []
    for step in steps:
        try:
            step()
        except OSError as error:
            failures.append(error)
    if failures:
        first, names = failures[0], ", ".join(str(error.filename or "?") for error in failures)
        if len(failures) == 1 or not all(error.errno for error in failures):
            raise first
        raise OSError(first.errno, first.strerror, names) from first


@contextmanager
def _naming(target: Path, written: Path) -> Iterator[None]:
    """Turn every way in which a library says that it can't write into an `OSError` that names the target."""
    try:
        yield
    except OSError as error:
        ours = error.filename is None or error.filename2 is not None or Path(error.filename) == written
        if not ours or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    except Exception as error:
        # the writers of torch and safetensors tell neither the file nor, the first, the cause
        if not re.search(r"PytorchStreamWriter|inline_container|I/O error", str(error)):
            raise
        number = _why_not_writable(written)
        raise OSError(number, os.strerror(number), str(target)) from error


def _why_not_writable(file: Path) -> int:
    """The number of the error that more bytes in a file meet."""
    try:
        with file.open("ab", buffering=0) as stream:
            # the part that still fits is written without an error
            for _ in range(256):
                stream.write(bytes(2**16))
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO


def _made(folder: Path) -> dict[str, Any]:
    """Name of each file that was made in a folder -> its size and time then."""
    record = folder / RECORD
    try:
        size = record.stat().st_size
    except OSError:
        return {}
    if _READ.get(folder, (-1, {}))[0] != size:
        made: dict[str, Any] = {}
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                name, *facts = json.loads(line)
                made[name] = facts
            except (ValueError, TypeError):
                # a line that was cut off: its file is not ours then
                continue
        _READ[folder] = (size, made)
    return _READ[folder][1]


def _remember(target: Path) -> None:
    found = target.stat()
    made = _made(target.parent)
    with (target.parent / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps([target.name, found.st_size, found.st_mtime_ns]) + "\n")
        file.flush()
        size = file.tell()
    made[target.name] = [found.st_size, found.st_mtime_ns]
    _READ[target.parent] = (size, made)
