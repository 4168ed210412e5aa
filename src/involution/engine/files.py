"""Writing files: whole or not at all, and over nothing but an earlier file of the same origin.

One rule for all commands: a file is replaced if this package made it, nobody changed it since, and everything that went
into it goes into the new one, too. `check_free` is that rule. A name that the user chose is refused otherwise; a name
that a command chose, such as a photo's in a folder of pictures, gets a number (`involution.engine.outputs`).
"""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from involution.data import paths

# beside the files: what was made in this folder, a line each
RECORD = paths.RECORD


@dataclass(frozen=True)
class Origin:
    """What a file is the result of.

    Attributes:
        command: what makes it, such as ``segment predict``.
        inputs: what goes into it: paths, and other words that say what is measured. An image comes first.
        checkpoint: the network's file, if there is one.
    """

    command: str
    inputs: tuple[str, ...]
    checkpoint: str = ""

    def covers(self, other: "Origin") -> bool:
        """Whether everything that went into another file goes into this one, too."""
        same = (self.command, self.checkpoint) == (other.command, other.checkpoint)
        return same and set(other.inputs) <= set(self.inputs)

    def __str__(self) -> str:
        more = f" and {len(self.inputs) - 1} more" if len(self.inputs) > 1 else ""
        with_network = f", with {self.checkpoint}" if self.checkpoint else ""
        return f"{self.command} of {self.inputs[0]}{more}{with_network}" if self.inputs else self.command


@dataclass(frozen=True)
class _Made:
    """A line of the record: a file's size and time when it was made, and its origin."""

    size: int
    time: int
    origin: Origin | None


# folder -> size of its record when it was read, and what the record holds
_READ: dict[Path, tuple[int, dict[str, _Made]]] = {}
_ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)


@contextmanager
def made_of(origin: Origin | None) -> Iterator[None]:
    """Say what the files are the result of that are checked or written inside."""
    token = _ORIGIN.set(origin)
    try:
        yield
    finally:
        _ORIGIN.reset(token)


def current_origin() -> Origin | None:
    """What `made_of` says."""
    return _ORIGIN.get()


def absolute(source: str | os.PathLike[str]) -> str:
    """A path, or a data set's ``format:path``, that means the same in every folder."""
    text = os.fspath(source)
    kind, colon, path = text.partition(":")
    if colon and not os.path.exists(text) and kind.replace("-", "").isalnum():
        return f"{kind}:{os.path.abspath(path)}"
    return os.path.abspath(text)


def network_origin(checkpoint: str | os.PathLike[str]) -> str:
    """A checkpoint's file, or published weights by name, in a way that means the same in every folder."""
    from involution.models.weights import published

    by_name = not os.path.exists(checkpoint) and published(checkpoint) is not None
    return os.fspath(checkpoint) if by_name else absolute(checkpoint)


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
    _check_writable(folder, folder)


def _check_writable(folder: Path, told: Path) -> None:
    if not os.access(folder, os.W_OK):
        number = errno.EROFS if _is_read_only(folder) else errno.EACCES
        raise OSError(number, os.strerror(number), str(told))


def _is_read_only(folder: Path) -> bool:
    # Windows has no statvfs
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise `OSError` now if a folder can't be made or written to later; makes nothing."""
    folder = Path(path)
    for place in (folder, *folder.parents):
        if place.is_dir():
            _check_writable(place, folder)
            return
        if place.exists():
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is wanted", str(folder))


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise `OSError` now if a file can't be written later, after hours of work; makes nothing.

    Raises:
        OSError: for a folder, a place that can't be written to, or a file that must not be replaced.
    """
    target = Path(path)
    check_free(target)
    if not target.exists() or target.is_file():
        check_folder(target.parent)


def check_free(path: str | os.PathLike[str]) -> None:
    """Refuse a place whose file must not be replaced by one of the current origin (see `made_of`).

    Raises:
        FileExistsError: for a file that this package did not make, that was changed since, or that holds other results.
        IsADirectoryError: for a folder.
    """
    other = in_the_way(path)
    if other is not None:
        why = f"not overwritten: it holds other results ({other}); choose another place, or delete it"
        raise FileExistsError(errno.EEXIST, why, os.fspath(path))


def in_the_way(path: str | os.PathLike[str]) -> Origin | None:
    """The origin of the results that a file of the current origin would replace; None where nothing is lost.

    Raises:
        FileExistsError: for a file that this package did not make, or that was changed since.
        IsADirectoryError: for a folder.
    """
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder is where a file is wanted", os.fspath(path))
    # a device or a pipe has nothing to lose
    if not final.is_file():
        return None
    if not is_ours(final):
        why = "not overwritten: involution did not make this file; choose another place"
        raise FileExistsError(errno.EEXIST, why, os.fspath(path))
    old, new = made_in(final.parent)[final.name], _ORIGIN.get()
    return None if old is None or (new is not None and new.covers(old)) else old


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file was made by this package, and not changed since."""
    final = Path(os.path.realpath(path))
    made = _made(final.parent).get(final.name)
    if made is None or not final.is_file():
        return False
    found = final.stat()
    return (made.size, made.time) == (found.st_size, found.st_mtime_ns)


def made_in(folder: str | os.PathLike[str]) -> dict[str, Origin | None]:
    """Name of each file that was made in a folder, be it there still or not -> its origin, where that is known."""
    return {name: made.origin for name, made in _made(Path(os.path.realpath(folder))).items()}


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A temporary file next to `path` that replaces it if the block succeeds, and is deleted otherwise.

    A link stays one: the file it leads to is replaced. A device or a pipe is written to as it is.

    Args:
        path: the file.
        replace: take the place of any file. For folders that belong to this package, such as a run's; elsewhere a file
            is replaced by the rule of `check_free`.

    Raises:
        FileExistsError: for a file that must not be replaced; where it came while the block ran, what the block wrote
            is kept under another name, which the error tells.
        OSError: if it can't be written; `filename` is `path`, whatever the block did with which file.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        with _naming(target, target):
            yield target
        return
    make_folder(target.parent)
    final, origin = Path(os.path.realpath(target)), _ORIGIN.get()
    if not replace:
        check_free(target)
    # a name may be as long as the system allows, and ours adds to it
    temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.tmp")
    try:
        with _naming(target, temporary):
            yield temporary
            with made_of(origin):
                if not replace:
                    _check_still_free(target, temporary)
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


def _check_still_free(target: Path, written: Path) -> None:
    """Refuse a file that came while the new one was written, which is then kept beside it."""
    try:
        check_free(target)
    except FileExistsError as error:
        number = 2
        while (other := target.with_name(f"{target.stem}-{number}{target.suffix}")).exists():
            number += 1
        os.replace(written, other)
        _remember(other)
        raise FileExistsError(errno.EEXIST, f"{error.strerror}; the new one is {other}", str(target)) from error


def _made(folder: Path) -> dict[str, _Made]:
    """Name of each file that was made in a folder -> what the record says of it."""
    record = folder / RECORD
    try:
        found = record.lstat()
    except OSError:
        return {}
    # a link would lead to somebody else's file, a pipe would wait
    if not stat.S_ISREG(found.st_mode):
        return {}
    if _READ.get(folder, (-1, {}))[0] != found.st_size:
        made: dict[str, _Made] = {}
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                name, size, time, *origin = json.loads(line)
                made[name] = _Made(size, time, _origin(*origin) if origin else None)
            except (ValueError, TypeError, IndexError):
                # a line that was cut off: its file is not ours then
                continue
        _READ[folder] = (found.st_size, made)
    return _READ[folder][1]


def _origin(command: str, inputs: list[str], checkpoint: str) -> Origin:
    return Origin(str(command), tuple(map(str, inputs)), str(checkpoint))


def _remember(target: Path) -> None:
    found, origin = target.stat(), _ORIGIN.get()
    made, record = _made(target.parent), target.parent / RECORD
    # what can't be recorded counts as somebody else's, and is safe
    if record.is_symlink() or (record.exists() and not record.is_file()):
        return
    line = [target.name, found.st_size, found.st_mtime_ns]
    line += [] if origin is None else [origin.command, origin.inputs, origin.checkpoint]
    with suppress(OSError), record.open("a", encoding="utf-8") as file:
        # the first line feed ends a line that a full disk cut off
        file.write(f"\n{json.dumps(line)}\n" if file.tell() and not made else f"{json.dumps(line)}\n")
        file.flush()
        made[target.name] = _Made(found.st_size, found.st_mtime_ns, origin)
        _READ[target.parent] = (file.tell(), made)
