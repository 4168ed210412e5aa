"""One process at a time in a folder, such as a run's; one that died, here or on another machine, keeps nobody out."""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from involution.engine.process import tell
from involution.engine.settings import ConfigError

NAME = ".lock"
# seconds between two signs of life, and how long one is waited for
BEAT, PATIENCE = 5.0, 30.0
_HELD: set[str] = set()


class FolderInUse(ConfigError):
    """Another process works in this folder."""


class FolderLock:
    """Inside the context, no other process works in a folder.

    The lock is the system's, on a file in the folder, so it ends with the process. Some network drives don't share such
    locks between machines: the file also names its owner, who touches it every few seconds, and what was left by
    another machine is watched for a while before it is taken over.

    Args:
        folder: an existing folder.
        does: what its owner does, for messages.
        other: what to choose instead.
    """

    def __init__(self, folder: Path, does: str = "trains", other: str = "another --name") -> None:
        self.folder = folder
        self._words = (does, other)
        self.file = folder / NAME
        self._key = os.path.realpath(self.file)
        self._number = -1
        self._owner: dict[str, Any] = {}
        self._over = threading.Event()

    def __enter__(self) -> FolderLock:
        if self._key in _HELD:
            raise in_use(self.folder, process_record(), *self._words)
        while True:
            number = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                locked = _lock(number)
                found = _read(number)
                if locked is False:
                    raise in_use(self.folder, found, *self._words)
                # its owner may have removed the file since it was opened
                if not _is_same(number, self.file):
                    os.close(number)
                    continue
                if found and lives(found, locked is True, self.folder, self._sign):
                    raise in_use(self.folder, found, *self._words)
            except BaseException:
                os.close(number)
                raise
            break
        self._number, self._owner = number, process_record()
        os.ftruncate(number, 0)
        os.lseek(number, 0, os.SEEK_SET)
        os.write(number, json.dumps(self._owner).encode())
        _HELD.add(self._key)
        threading.Thread(target=self._beat, daemon=True, name="folder lock").start()
        return self

    def check(self) -> None:
        """Raise `FolderInUse` if another process has taken the folder over: this one was held up for too long."""
        found = _read(self._number)
        if found != self._owner or not _is_same(self._number, self.file):
            raise in_use(self.folder, found, *self._words)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):
                os.utime(self.file)

    def _sign(self) -> int:
        # opening makes a network drive look again
        with suppress(OSError), self.file.open("rb"):
            pass
        return self.file.stat().st_mtime_ns

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        _HELD.discard(self._key)
        with suppress(OSError):
            if _read(self._number) == self._owner and _is_same(self._number, self.file):
                self.file.unlink()
        os.close(self._number)


def _lock(number: int) -> bool | None:
    """Take the system's lock of an open file: whether it was free, or None where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        # of the process, not of the open file: loader processes do not inherit it
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def in_use(folder: Path, owner: dict[str, Any], does: str = "trains", other: str = "another --name") -> FolderInUse:
    """The error of a folder that another process, as far as it is known, works in."""
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return FolderInUse(f"{folder} is in use: {who} {does} there; wait for its end, or choose {other}")


def process_record() -> dict[str, Any]:
    """What tells this process from all others, as a lock's file keeps it."""
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "boot": _boot(), "start": _start(pid)}


def _boot() -> str:
    """What tells one start of this machine from the next, where the system says it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process was started, so that another one with its number is not taken for it; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _read(number: int) -> dict[str, Any]:
    try:
        os.lseek(number, 0, os.SEEK_SET)
        return parsed(os.read(number, 4096))
    except OSError:
        return {}


def parsed(content: bytes) -> dict[str, Any]:
    """The record of a process in a lock's file; empty where there is none."""
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"host", "pid", "boot", "start"} <= set(found) else {}


def _is_same(number: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), file.stat())
    except OSError:
        return False


def lives(owner: dict[str, Any], locked: bool, folder: Path, sign: Callable[[], object]) -> bool:
    """Whether the owner of a lock file, which may have been killed, is at work.

    Args:
        owner: the record of its process.
        locked: whether the system has just given its lock away.
        folder: what is locked.
        sign: returns what the owner changes again and again.
    """
    if owner["host"] == platform.node():
        if owner["boot"] and owner["boot"] != _boot():
            return False
        if locked:
            # the system would not have given it away
            return False
        if owner["start"]:
            return _start(int(owner["pid"])) == owner["start"]
    tell(f"{folder} was in use by process {owner['pid']} on {owner['host']}: waiting for a sign of life from it")
    before, end = sign(), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(BEAT / 5, 1.0))
        with suppress(OSError):
            if sign() != before:
                return True
    return False
