"""One process at a time in a run's folder at an address: a sign that its owner renews, for want of a true lock."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from involution.data import addresses
from involution.engine.folder_lock import NAME, in_use, lives, parsed, process_record

# seconds between two signs of life
BEAT = 10.0


class AddressLock:
    """Inside the context, a file at an address says who trains there.

    Object stores have no locks. Of two processes that begin in the same moment both may pass; the sign of the later one
    stays, and the other one ends before its next checkpoint, since `check` finds that it is not its own.

    Args:
        folder: what `involution.data.addresses.path_of` made of the address.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / NAME
        self._owner: dict[str, Any] = {}
        self._beats = 0
        self._over = threading.Event()

    def __enter__(self) -> AddressLock:
        found = self._read()
        if found and lives(found, False, self.folder, self._read):
            raise in_use(self.folder, found)
        self._owner = {**process_record(), "token": uuid.uuid4().hex}
        self._write()
        threading.Thread(target=self._beat, daemon=True, name="address lock").start()
        return self

    def check(self) -> None:
        """Raise `FolderInUse` if another process has put its sign there."""
        found = self._read()
        if not self._is_own(found):
            raise in_use(self.folder, found)

    def _is_own(self, found: dict[str, Any]) -> bool:
        return found.get("token") == self._owner["token"]

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            # a storage that can't be reached now may be so later
            with suppress(Exception):
                if not self._is_own(self._read()):
                    return
                self._beats += 1
                self._write()

    def _read(self) -> dict[str, Any]:
        try:
            return parsed(addresses.read_bytes(self.file))
        except FileNotFoundError:
            return {}

    def _write(self) -> None:
        addresses.write_bytes(self.file, json.dumps({**self._owner, "beats": self._beats}).encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(Exception):
            if self._is_own(self._read()):
                self.file.unlink()
