"""Addresses such as ``s3://bucket/runs``: the one place where they become paths, and are read and written.

An address is a `upath.UPath`, which has what `pathlib.Path` has but is no file of this machine; fsspec and its plug-ins
do the work. Addresses come from the command line (or `allow`) alone: one in a checkpoint or a file of settings is
refused, as is one with a password or a key in it, which would end up in checkpoints and reports.
"""

from __future__ import annotations

import datetime
import errno
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from involution.data.errors import DataError, printable
from involution.extras import MissingExtra, require

T = TypeVar("T")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file", "local")
# what storages call that changes whenever a file does
_CHANGES = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
# seconds between the attempts
PAUSES = (0.5, 2.0, 5.0)
_ALLOWED: set[str] = set()
_TOLD: set[str] = set()
# folder -> name -> what `listed` was told of it
_LISTED: dict[str, dict[str, dict[str, Any]]] = {}


class AddressError(DataError):
    """An address that can't be used as asked."""


class StorageError(OSError):
    """What is at an address can't be read or written; the message holds no credentials."""


def is_address(text: object) -> bool:
    """Whether a user's words are an address, not a path.

    Example:
        >>> is_address("s3://bucket/run"), is_address("runs/7"), is_address("webdataset:shards")
        (True, False, False)
    """
    return isinstance(text, str) and _SCHEME.match(text) is not None


def in_text(text: str) -> str:
    """The address that a word ends with, such as that of a data set; empty without.

    Example:
        >>> in_text("webdataset:s3://bucket/train-{000..003}.tar")
        's3://bucket/train-{000..003}.tar'
    """
    found = _SCHEME.search(text)
    return text[found.start() :] if found else ""


def allow(*words: str) -> None:
    """Let the addresses in a user's words be used, and all below them.

    The command line is allowed so; who calls this package from Python says which addresses are meant.

    Raises:
        AddressError: for one that has a password or a key in it.
    """
    for address in filter(None, map(in_text, words)):
        if _without_secrets(address) != address:
            raise AddressError(
                f"{_without_secrets(address)}: an address must not hold a password or a key, which would be kept in "
                "checkpoints and reports; give it by the storage's environment variables or settings file"
            )
        _ALLOWED.add(address.rstrip("/"))


def allow_arguments(words: Iterable[str], command: str, takes: bool) -> None:
    """Allow the addresses of a command line, or refuse them where a command takes none.

    Raises:
        AddressError: for a command that takes no addresses, and as `allow`.
    """
    for word in words:
        allow(word)
        address = in_text(word)
        if address and not takes and not address.startswith(("http://", "https://")):
            raise AddressError(f"{command} takes no addresses, got {address}; name a file or folder of this machine")


def path_of(path: str | os.PathLike[str], named: str | None = None) -> Path:
    """A path, or what serves as one for an address.

    Args:
        path: a path or an address; ``file://`` is a path.
        named: what the user named, if the address is a part of it.

    Raises:
        AddressError: for an address that the user did not name, of an unknown kind, or with a password or key.
        MissingExtra: for one whose plug-in is not installed.
    """
    if not isinstance(path, str) or not is_address(path):
        # what `path_of` made is no os.PathLike, so that nothing mistakes it for a file of this machine
        return path if isinstance(path, Path) or is_remote(path) else Path(path)  # type: ignore[return-value]
    require("upath")
    scheme = path.partition("://")[0]
    if scheme in _LOCAL:
        from fsspec.implementations.local import LocalFileSystem

        return Path(LocalFileSystem._strip_protocol(path))
    _check_allowed(named or path)
    kind = _kind(scheme)
    from fsspec.asyn import AsyncFileSystem
    from upath import UPath

    # what other processes put there shall be seen; the others keep no listings
    options: dict[str, Any] = {"use_listings_cache": False} if issubclass(kind, AsyncFileSystem) else {}
    return cast(Path, UPath(path, **options))


def is_remote(path: object) -> bool:
    """Whether `path_of` made this of an address."""
    return not isinstance(path, str | os.PathLike)


def _check_allowed(address: str) -> None:
    named = any(address.rstrip("/") == known or address.startswith(f"{known}/") for known in _ALLOWED)
    if not named or ".." in address.split("/"):
        raise AddressError(
            f"{_without_secrets(address)}: an address is only taken from the command line, not from a checkpoint or a "
            "file; name it there, as with --data"
        )


def _kind(scheme: str) -> type[Any]:
    """The class of the storages of a kind."""
    from fsspec.registry import get_filesystem_class, known_implementations

    try:
        return cast(type[Any], get_filesystem_class(scheme))
    except ImportError as error:
        package = known_implementations[scheme]["class"].partition(".")[0]
        raise MissingExtra(package) from error
    except ValueError as error:
        raise AddressError(f"{scheme}:// is no kind of address that fsspec knows") from error


def _without_secrets(text: str) -> str:
    return re.sub(r"\?\S+", "?...", re.sub(r"//[^/@\s:]*:[^/@\s]*@", "//...@", text))


def _reason(error: BaseException) -> str:
    """What a storage complains of, in one harmless line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return _without_secrets(printable(text)) or type(error).__name__


def failure(error: BaseException) -> str:
    """What a storage complained of in an error that its plug-in raised; empty for other errors."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("fsspec", "upath"):
            return f"{type(error).__name__}: {_reason(error)}"
        trace = trace.tb_next
    return ""


def _tried(file: Path, call: Callable[[], T]) -> T:
    """Ask a storage, and again where it was interrupted, which is told once.

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if it must not be used.
        StorageError: if it failed every time.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return call()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(file)) from error
        except PermissionError as error:
            raise PermissionError(errno.EACCES, _reason(error), str(file)) from error
        except Exception as error:
            pause = next(pauses, None)
            if pause is None:
                attempts = len(PAUSES) + 1
                raise StorageError(errno.EIO, f"failed {attempts} times ({_reason(error)})", str(file)) from error
            if str(file) not in _TOLD:
                _TOLD.add(str(file))
                print(f"warning: {file}: interrupted ({_reason(error)}), trying again", file=sys.stderr)
            time.sleep(pause)


@contextmanager
def listed(folder: Path) -> Iterator[None]:
    """Ask what is in a folder at an address once, not file by file, while the block runs; of other folders nothing."""
    if not is_remote(folder):
        yield
        return

    def ask() -> list[dict[str, Any]]:
        try:
            return list(_fs(folder).ls(_path(folder), detail=True))
        except FileNotFoundError:
            return []

    key = str(folder).rstrip("/")
    _LISTED[key] = {str(info["name"]).rstrip("/").rpartition("/")[2]: info for info in _tried(folder, ask)}
    try:
        yield
    finally:
        del _LISTED[key]


def _info(file: Path) -> dict[str, Any] | None:
    """What a storage says of a file or folder; None where there is none."""
    names = _LISTED.get(str(file.parent).rstrip("/"))
    if names is not None:
        return names.get(file.name)
    try:
        return dict(_tried(file, lambda: _fs(file).info(_path(file))))
    except FileNotFoundError:
        return None


def is_file(file: Path) -> bool:
    """Whether there is a file."""
    return (_info(file) or {}).get("type") == "file" if is_remote(file) else file.is_file()


def is_dir(file: Path) -> bool:
    """Whether there is a folder."""
    return (_info(file) or {}).get("type") == "directory" if is_remote(file) else file.is_dir()


def stamp(file: Path) -> tuple[int, int | str]:
    """A file's size, and what changes when it does.

    Raises:
        OSError: if there is no such file.
    """
    if not is_remote(file):
        found = file.stat()
        return found.st_size, found.st_mtime_ns
    info = _info(file)
    if info is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(file))
    change: Any = next((info[name] for name in _CHANGES if info.get(name)), "")
    # a listing may have it in another form
    change = change.timestamp() if isinstance(change, datetime.datetime) else change
    return int(info.get("size") or 0), f"{change:.3f}" if isinstance(change, float) else str(change)


def put(source: Path, target: Path) -> None:
    """Write a file of this machine to an address, whole: object stores show it when it is there to its end.

    Raises:
        OSError: naming the address.
    """

    def write() -> None:
        try:
            _fs(target).put_file(str(source), _path(target))
        except FileNotFoundError:
            # of storages with true folders
            _fs(target).makedirs(_path(target.parent), exist_ok=True)
            _fs(target).put_file(str(source), _path(target))
        arrived, size = _fs(target).info(_path(target))["size"], source.stat().st_size
        if arrived != size:
            raise OSError(errno.EIO, f"only {arrived:,} of {size:,} bytes arrived")

    _tried(target, write)


def copy(source: Path, target: Path) -> None:
    """Give what is at an address to another one there, too."""
    _tried(target, lambda: _fs(source).cp_file(_path(source), _path(target)))


def check_writable(folder: Path) -> None:
    """Raise `OSError` now if nothing can be written below an address later: a few bytes are put there and removed."""
    probe = folder / f".involution-{os.getpid()}.tmp"
    try:
        _tried(folder, lambda: _fs(probe).pipe_file(_path(probe), b"may this be written?"))
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such bucket or folder to write to", str(folder)) from error
    # who may only write leaves it there
    try:
        _fs(probe).rm_file(_path(probe))
    except Exception as error:
        print(f"warning: {probe}: can't be removed ({_reason(error)})", file=sys.stderr)


def read_bytes(file: Path) -> bytes:
    """What is at an address now.

    Raises:
        OSError: if it can't be read.
    """
    return bytes(_tried(file, lambda: _fs(file).cat_file(_path(file))))


def write_bytes(file: Path, content: bytes) -> None:
    """Put a few bytes to an address.

    Raises:
        OSError: if they can't be put there.
    """
    _tried(file, lambda: _fs(file).pipe_file(_path(file), content))


def read_range(file: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file.

    Raises:
        OSError: naming the file, if they can't be had.
    """
    if not is_remote(file):
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def read() -> bytes:
        found: bytes = _fs(file).cat_file(_path(file), start=offset, end=offset + size)
        if len(found) != size:
            raise OSError(errno.EIO, f"only {len(found):,} of {size:,} bytes came")
        return found

    return _tried(file, read) if size else b""


class _Ranges(io.RawIOBase):
    """A file at an address, of which only the parts that are asked for are read."""

    def __init__(self, file: Path, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        buffer[:wanted] = read_range(self._file, self._at, wanted)
        self._at += wanted
        return wanted


def open_parts(file: Path, block: int) -> io.BufferedIOBase:
    """Open a file to read some parts of it; at an address, some bytes at a time.

    Args:
        file: the file.
        block: bytes that are asked for at once.
    """
    if not is_remote(file):
        return cast(io.BufferedIOBase, file.open("rb"))
    return io.BufferedReader(_Ranges(file, stamp(file)[0]), block)


@contextmanager
def on_this_machine(path: Any) -> Iterator[Any]:
    """A copy of the file at an address while the block runs, whose errors name the address; other paths as they are."""
    file = path_of(path) if is_address(path) else path
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="involution-") as folder:
        local = Path(folder) / file.name
        try:
            _tried(file, lambda: _fs(file).get_file(_path(file), str(local)))
        except FileNotFoundError:
            # who reads it has its own words for this
            local.unlink(missing_ok=True)
        try:
            yield local
        except ValueError as error:
            error.args = tuple(
                word.replace(str(local), str(file)) if isinstance(word, str) else word for word in error.args
            )
            raise


def why_unreadable(file: Any, empty: bool = False) -> str:
    """Why there is no file to be read at an address, in words; "" where there is one."""
    try:
        size, _ = stamp(file)
    except OSError as error:
        return error.strerror or str(error)
    return "" if size or empty else "the file is empty (0 bytes)"


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it, as far as that can be done."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif is_dir(folder):
        _fs(folder).rm(_path(folder), recursive=True)


def _fs(file: Path) -> Any:
    import fsspec

    # one for each process: those of a path that was made before a fork do not work in the copy
    return fsspec.filesystem(file.protocol, **file.storage_options)  # type: ignore[attr-defined]


def _path(file: Path) -> str:
    return str(file.path)  # type: ignore[attr-defined]
