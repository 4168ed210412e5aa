"""Reading what somebody uploaded in a process of its own: it can be ended, and what it breaks is not the page's."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from involution.app import limits
from involution.app.errors import AppError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_apart(path: Path) -> Image:
    """Read an upload as `limits.read_upload` does, but for `limits.READ_SECONDS` at most.

    Args:
        path: The uploaded file.

    Returns:
        An 8-bit image of mode `L` or `RGB` with no side over `limits.MAX_SIDE`.

    Raises:
        AppError: If it is no image, breaks the limits, or takes too long or too much memory.
    """
    import PIL.Image

    # a fresh interpreter: a fork would have the threads and the memory of the page
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(theirs, path), daemon=True)
    with _deaf():
        process.start()
    theirs.close()
    try:
        if not ours.poll(limits.READ_SECONDS):
            raise AppError(f"{path.name}: takes more than {limits.READ_SECONDS:g} seconds to read")
        # bytes, not objects: what a broken reader sends can't run code here
        head, _, pixels = ours.recv_bytes().partition(b"\n")
    except EOFError as error:
        raise AppError(f"{path.name}: can't be read; it takes too much memory or breaks the reader") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    found = json.loads(head)
    if "error" in found:
        raise AppError(found["error"])
    return PIL.Image.frombytes(found["mode"], tuple(found["size"]), pixels)


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


def _read(pipe: Connection, path: Path) -> None:
    from involution.data.images import ImageError

    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.READ_MEMORY, limits.READ_MEMORY))
    try:
        image = limits.read_upload(path)
    except (AppError, ImageError) as error:
        pipe.send_bytes(json.dumps({"error": str(error)}).encode())
    else:
        pipe.send_bytes(json.dumps({"mode": image.mode, "size": image.size}).encode() + b"\n" + image.tobytes())
