"""What is in the folder of a run: its checkpoints by name, and which of them a training can go on from."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from involution.data import addresses
from involution.data.addresses import is_remote, path_of
from involution.engine.address_lock import AddressLock
from involution.engine.checkpoint import CARD_KEY, CheckpointError, read_checkpoint
from involution.engine.files import RECORD, check_folder, is_ours, make_folder
from involution.engine.folder_lock import NAME as LOCK
from involution.engine.folder_lock import FolderLock
from involution.engine.process import is_main_process, tell
from involution.engine.settings import ConfigError
from involution.models.shards import FOLDER, folders_of

LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"
# what a run leaves that ends before its first checkpoint
_REMAINS = {"tensorboard", "wandb", "data.json", METRICS, RECORD}
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def kept(folder: Path) -> list[Path]:
    """The checkpoints of a run that a training can go on from, the newest first."""
    found = [(int(match[1] or 0), file) for file in folder.glob("last*.ckpt") if (match := _number(file))]
    return [file for _, file in sorted(found)]


def _number(file: Path) -> re.Match[str] | None:
    return re.fullmatch(r"last(?:\.(\d+))?\.ckpt", file.name)


def rotate(last: Path, keep: int) -> None:
    """Make room for a new last.ckpt: the present one becomes last.1.ckpt, and so on; `keep` of them remain in all.

    There is a last.ckpt at any moment.
    """
    numbered = [last, *(last.with_name(f"last.{number}.ckpt") for number in range(1, keep))]
    for older, newer in reversed(list(zip(numbered[1:], numbered, strict=False))):
        if newer == last and last.is_file():
            copy_link(last, older)
        elif newer.is_file():
            (addresses.copy if is_remote(newer) else os.replace)(newer, older)
    for file in kept(last.parent)[keep:]:
        file.unlink(missing_ok=True)


def copy_link(source: Path, target: Path) -> None:
    """Give a file a second name, in the place of whatever has it now; at an address, a copy."""
    if is_remote(source):
        addresses.copy(source, target)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            # a file system without such links
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def clear_shards(folder: Path) -> None:
    """Remove the parts of checkpoints that are not kept any more, or that a process did not live to finish."""
    if is_remote(folder):
        # where none are written
        return
    there = [entry for entry in folder.iterdir() if FOLDER.fullmatch(entry.name)]
    needed = folders_of(kept(folder)) if there else set()
    for entry in there:
        # of what can't be read nobody knows
        if needed is not None and entry.name not in needed:
            shutil.rmtree(entry, ignore_errors=True)


def find_checkpoint(path: str | os.PathLike[str], *, whole: bool = True) -> tuple[Path, dict[str, Any], str]:
    """A checkpoint, or the newest kept before it where a run's last.ckpt is damaged or missing.

    Args:
        path: the checkpoint.
        whole: as for `read_checkpoint`.

    Returns:
        The file, its contents, and why it is another one than asked for.

    Raises:
        CheckpointError: if none of them can be read.
    """
    file = path_of(path)
    candidates = [file, *(other for other in kept(file.parent) if other != file)] if file.name == LAST else [file]
    first: CheckpointError | None = None
    for candidate in candidates:
        try:
            found = read_checkpoint(candidate, whole=whole)
        except CheckpointError as error:
            first = first or error
            continue
        if first is None:
            return candidate, found, ""
        epoch, batch = place(found)
        return candidate, found, f"{first}; going on from {candidate} ({in_words(epoch, batch)})"
    raise first or CheckpointError(f"no such checkpoint: {file}")


def place(found: Mapping[str, Any]) -> tuple[int, int]:
    """The (epoch, batch) at which a checkpoint was written, (0, 0) where it does not say."""
    position = found.get(CARD_KEY, {}).get("position")
    right = isinstance(position, list | tuple) and len(position) == 2 and all(isinstance(n, int) for n in position)
    return (position[0], position[1]) if right else (0, 0)


def in_words(epoch: int, batch: int) -> str:
    """A place in a training: "after 3 epochs and 20 batches"."""
    epochs = f"{epoch} epoch{'' if epoch == 1 else 's'}"
    return f"after {epochs} and {batch} batches" if batch else f"after {epochs}"


class RunFolder:
    """The folder of a run while it is trained in: of several processes the first one has it locked.

    Args:
        path: the folder, which need not exist, or what `involution.data.addresses.path_of` made of an address.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | AddressLock | None = None
        # a run that was killed leaves its lock
        self._abandoned = False

    def __enter__(self) -> RunFolder:
        return self

    def lock(self) -> None:
        """Lock it, if it exists, and remove the temporary files of processes that were killed.

        Raises:
            FolderInUse: if another process trains there.
        """
        if is_main_process() and self.path.is_dir():
            self._take()

    def _take(self) -> None:
        if self._lock is not None:
            return
        self._abandoned = (self.path / LOCK).exists()
        self._lock = AddressLock(self.path) if is_remote(self.path) else FolderLock(self.path)
        try:
            self._lock.__enter__()
        except BaseException:
            self._lock = None
            raise
        for entry in self.path.iterdir():
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file():
                with suppress(OSError):
                    entry.unlink()
        clear_shards(self.path)

    def claim(self) -> None:
        """Make it for a new run, or take it from one that ended before its first checkpoint.

        Raises:
            ConfigError: for a folder that holds anything else, or can't be made.
            FolderInUse: if another process trains there.
        """
        if not is_main_process():
            return
        try:
            make_folder(self.path)
        except OSError as error:
            raise ConfigError(
                f"can't make the folder {self.path} ({error.strerror}); choose another --output"
            ) from error
        self._take()
        if self._remains():
            tell(f"{self.path} holds a run that ended before its first checkpoint; it starts over")
            for logs in (self.path / "tensorboard", self.path / "wandb"):
                addresses.remove_tree(logs)
            # written where the disk had no room for the checkpoint
            (self.path / METRICS).unlink(missing_ok=True)

    def check_claim(self) -> None:
        """Refuse before the work what `claim` would refuse after it, without making anything.

        Raises:
            ConfigError: for a folder that holds anything else, or can't be made.
        """
        if not is_main_process():
            return
        try:
            check_folder(self.path)
        except OSError as error:
            raise ConfigError(
                f"can't make the folder {self.path} ({error.strerror}); choose another --output"
            ) from error
        if self.path.is_dir():
            self._remains()

    def _remains(self) -> bool:
        """Whether it holds a run that ended before its first checkpoint; refuses anything else that it holds."""
        names = {entry.name for entry in self.path.iterdir()} - {LOCK}
        inside = {name for name in names if not _TEMPORARY.fullmatch(name) and not FOLDER.fullmatch(name)}
        if kept(self.path):
            raise ConfigError(
                f"{self.path} already has a run; choose another --name, or resume it with --resume {self.path / LAST}"
            )
        if self._lock is None:
            self._abandoned = (self.path / LOCK).exists()
        # a run begins with this file, or was killed: else the rest is somebody else's
        ours = self._abandoned or is_ours(self.path / "data.json")
        if inside and not (inside <= _REMAINS and ours):
            raise ConfigError(f"{self.path} already has files; choose another --name")
        return bool(inside)

    def check(self) -> None:
        """Raise `FolderInUse` if another process has taken it over."""
        if self._lock is not None:
            self._lock.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.__exit__(kind, error, trace)
            self._lock = None
