"""Writing files: whole or not at all, and over nothing but an earlier file of the same origin.

One rule for all commands: a file is replaced if this package made it, nobody changed it since, and everything that went
into it goes into the new one, too. `check_free` is that rule. A name that the user chose is refused otherwise; a name
that a command chose, such as a photo's in a folder of pictures, gets a number (`involution.engine.outputs`).

Files and folders may be at an address (`involution.data.addresses`), where a folder's record is written now and then.
"""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from involution.data import addresses, paths
from involution.data.addresses import is_address, is_remote, path_of, stamp

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
    """A line of the record: a file's size and time when it was made, and its origin.

    At an address, the time is whatever the storage changes with a file.
    """

    size: int
    time: int | str
    origin: Origin | None


# folder -> size of its record when it was read, and what the record holds
_READ: dict[Path, tuple[int, dict[str, _Made]]] = {}
# folder at an address -> how many lines its record lacks
_UNWRITTEN: dict[Path, int] = {}
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
    text = str(source)
    if is_address(text):
        return text
    kind, colon, path = text.partition(":")
    if is_address(path):
        return text
    if colon and not os.path.exists(text) and kind.replace("-", "").isalnum():
        return f"{kind}:{os.path.abspath(path)}"
    return os.path.abspath(text)


def network_origin(checkpoint: str | os.PathLike[str]) -> str:
    """A checkpoint's file, or published weights by name, in a way that means the same in every folder."""
    from involution.models.weights import published

    by_name = not os.path.exists(checkpoint) and published(checkpoint) is not None
    return str(checkpoint) if by_name else absolute(checkpoint)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and its parents, if it doesn't exist yet; an address needs none.

    Raises:
        OSError: if it can't be made or written to.
    """
    folder = path_of(path)
    if is_remote(folder):
        return
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
    folder = path_of(path)
    if is_remote(folder):
        addresses.check_writable(folder)
        return
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
    target = path_of(path)
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
        raise FileExistsError(errno.EEXIST, why, str(path))


def _final(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, through links."""
    final = path_of(path)
    return final if is_remote(final) else Path(os.path.realpath(final))


def in_the_way(path: str | os.PathLike[str]) -> Origin | None:
    """The origin of the results that a file of the current origin would replace; None where nothing is lost.

    Raises:
        FileExistsError: for a file that this package did not make, or that was changed since.
        IsADirectoryError: for a folder.
    """
    final = _final(path)
    if addresses.is_dir(final):
        raise IsADirectoryError(errno.EISDIR, "a folder is where a file is wanted", str(path))
    # a device or a pipe has nothing to lose
    if not addresses.is_file(final):
        return None
    if not is_ours(final):
        why = "not overwritten: involution did not make this file, or it was changed since; choose another place"
        raise FileExistsError(errno.EEXIST, why, str(path))
    old, new = made_in(final.parent)[final.name], _ORIGIN.get()
    return None if old is None or (new is not None and new.covers(old)) else old


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file was made by this package, and not changed since."""
    final = _final(path)
    made = _made(final.parent).get(final.name)
    return made is not None and addresses.is_file(final) and (made.size, made.time) == stamp(final)


def made_in(folder: str | os.PathLike[str]) -> dict[str, Origin | None]:
    """Name of each file that was made in a folder, be it there still or not -> its origin, where that is known."""
    return {name: made.origin for name, made in _made(_final(folder)).items()}


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A temporary file next to `path` that replaces it if the block succeeds, and is deleted otherwise.

    A link stays one: the file it leads to is replaced. A device or a pipe is written to as it is. What belongs at an
    address is written on this machine and put there as a whole.

    Args:
        path: the file.
        replace: take the place of any file. For folders that belong to this package, such as a run's; elsewhere a file
            is replaced by the rule of `check_free`.

    Raises:
        FileExistsError: for a file that must not be replaced; where it came while the block ran, what the block wrote
            is kept under another name, which the error tells.
        OSError: if it can't be written; `filename` is `path`, whatever the block did with which file.
    """
    target = path_of(path)
    remote = is_remote(target)
    if not remote and target.exists() and not target.is_file() and not target.is_dir():
        with _naming(target, target):
            yield target
        return
    make_folder(target.parent)
    final, origin = _final(target), _ORIGIN.get()
    if not replace:
        check_free(target)
    scratch = tempfile.mkdtemp(prefix="involution-") if remote else None
    # a name may be as long as the system allows, and ours adds to it
    temporary = Path(scratch or final.parent) / f".{final.name[:40]}.{os.getpid()}.tmp"
    try:
        with _naming(target, temporary):
            yield temporary
            with made_of(origin):
                if not replace:
                    _check_still_free(target, temporary)
                _move(temporary, final)
                if not replace:
                    _remember(final)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if is_remote(target):
        addresses.put(source, target)
    else:
        os.replace(source, target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text, whole or not at all.

    Raises:
        OSError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        # in JSON, this is how a name that is no UTF-8 is written
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


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
        _move(written, other)
        _remember(other)
        raise FileExistsError(errno.EEXIST, f"{error.strerror}; the new one is {other}", str(target)) from error


def _made(folder: Path) -> dict[str, _Made]:
    """Name of each file that was made in a folder -> what the record says of it."""
    record = folder / RECORD
    if _UNWRITTEN.get(folder):
        return _READ[folder][1]
    try:
        # a link would lead to somebody else's file, a pipe would wait
        if not is_remote(record) and not stat.S_ISREG(record.lstat().st_mode):
            return {}
        size, _ = stamp(record)
    except OSError:
        return {}
    if _READ.get(folder, (-1, {}))[0] != size:
        made: dict[str, _Made] = {}
        for line in addresses.read_range(record, 0, size).decode("utf-8", "replace").splitlines():
            try:
                name, length, time, *origin = json.loads(line)
                made[name] = _Made(length, time, _origin(*origin) if origin else None)
            except (ValueError, TypeError, IndexError):
                # a line that was cut off: its file is not ours then
                continue
        _READ[folder] = (size, made)
    return _READ[folder][1]


def _origin(command: str, inputs: list[str], checkpoint: str) -> Origin:
    return Origin(str(command), tuple(map(str, inputs)), str(checkpoint))


def _remember(target: Path) -> None:
    (size, time), origin = stamp(target), _ORIGIN.get()
    made, record = _made(target.parent), target.parent / RECORD
    if is_remote(record):
        made[target.name] = _Made(size, time, origin)
        _READ[target.parent] = (_READ.get(target.parent, (0, {}))[0], made)
        _UNWRITTEN[target.parent] = _UNWRITTEN.get(target.parent, 0) + 1
        # nothing is appended to there: a file for each line would be read and written a million times
        if 10 * _UNWRITTEN[target.parent] >= len(made):
            write_record(target.parent)
        return
    # what can't be recorded counts as somebody else's, and is safe
    if record.is_symlink() or (record.exists() and not record.is_file()):
        return
    line = _line(target.name, _Made(size, time, origin))
    with suppress(OSError), record.open("a", encoding="utf-8") as file:
        # the first line feed ends a line that a full disk cut off
        file.write(f"\n{line}" if file.tell() and not made else line)
        file.flush()
        made[target.name] = _Made(size, time, origin)
        _READ[target.parent] = (file.tell(), made)


def _line(name: str, made: _Made) -> str:
    origin = made.origin
    more = [] if origin is None else [origin.command, origin.inputs, origin.checkpoint]
    return f"{json.dumps([name, made.size, made.time, *more])}\n"


def write_record(folder: str | os.PathLike[str]) -> None:
    """Write what the record of a folder at an address lacks: there it is written now and then, not for each file."""
    final = path_of(folder)
    if not _UNWRITTEN.get(final):
        return
    made = _READ[final][1]
    # without it the files count as somebody else's, and are safe
    with suppress(OSError), tempfile.TemporaryDirectory(prefix="involution-") as scratch:
        record = Path(scratch) / RECORD
        record.write_text("".join(_line(name, one) for name, one in made.items()), encoding="utf-8")
        addresses.put(record, final / RECORD)
        _READ[final], _UNWRITTEN[final] = (record.stat().st_size, made), 0
