"""Reading what somebody uploaded in a process of its own: it can be ended, and what it breaks is not the page's."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from involution.app import limits
from involution.app.errors import AppError
from involution.data.images import ImageError, Reading, look
from involution.data.noticed import Noticed

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Upload:
    """An image as each network wants it read.

    Args:
        views: The 8-bit image by the way of reading, or why it can't be read so.
        note: What its user has to know of it.
    """

    views: Mapping[Reading, Image | str]
    note: str = ""

    def seen(self, reading: Reading) -> Image:
        """The image for a network.

        Raises:
            AppError: If it can't be read so.
        """
        found = self.views[reading]
        if isinstance(found, str):
            raise AppError(found)
        return found


def read_apart(path: Path, readings: Iterable[Reading]) -> Upload:
    """Read an upload as `limits.read_upload` does, but for `limits.READ_SECONDS` at most.

    Args:
        path: The uploaded file.
        readings: The ways in which the networks of the page want images read.

    Returns:
        The image, read in each of these ways.

    Raises:
        AppError: If it can't be read in any of them, breaks the limits, or takes too long or too much memory.
    """
    import PIL.Image

    readings = list(dict.fromkeys(readings))
    # a fresh interpreter: a fork would have the threads and the memory of the page
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(theirs, path, readings), daemon=True)
    with _deaf():
        process.start()
    theirs.close()
    views: dict[Reading, Image | str] = {}
    end = time.monotonic() + limits.READ_SECONDS
    size: list[int] = []
    told: list[str] = []
    try:
        for reading in readings:
            if not ours.poll(max(0.0, end - time.monotonic())):
                raise AppError(f"{path.name}: takes more than {limits.READ_SECONDS:g} seconds to read")
            # bytes, not objects: what a broken reader sends can't run code here
            head, _, pixels = ours.recv_bytes().partition(b"\n")
            found = json.loads(head)
            size = found.get("stored", size)
            told += [line for line in found.get("told", []) if line not in told]
            error = found.get("error")
            views[reading] = error or PIL.Image.frombytes(found["mode"], tuple(found["size"]), pixels)
    except EOFError as error:
        raise AppError(f"{path.name}: can't be read; it takes too much memory or breaks the reader") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    if all(isinstance(view, str) for view in views.values()):
        raise AppError(str(next(iter(views.values()))))
    shrunk = size and max(size) > limits.MAX_SIDE
    told = [f"{size[0]} × {size[1]} pixels, scaled down to {limits.MAX_SIDE} on this page"] * bool(shrunk) + told
    return Upload(views, "; ".join(told))


@contextmanager
def _deaf() -> Iterator[None]:
    """Start a process that Ctrl-C in the terminal does not reach; the page ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read(pipe: Connection, path: Path, readings: list[Reading]) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.READ_MEMORY, limits.READ_MEMORY))
    for reading in readings:
        try:
            noticed = Noticed()
            image = limits.read_upload(path, reading, noticed)
            stored = look(path, reading).size
            head = {"mode": image.mode, "size": image.size, "stored": stored, "told": noticed.of_one(reading)}
        except (AppError, ImageError) as error:
            # where the file is on this machine is no matter of the page's users
            reason = str(error).replace(f"{path}: ", f"{path.name}: ")
            pipe.send_bytes(json.dumps({"error": reason}).encode())
        else:
            pipe.send_bytes(json.dumps(head).encode() + b"\n" + image.tobytes())
