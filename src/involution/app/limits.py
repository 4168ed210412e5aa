"""Limits of one request: bytes and pixels of an upload, seconds of computing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.app.errors import AppError

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.images import Reading
    from involution.data.noticed import Noticed

MAX_BYTES = 20 * 2**20
# a request with a picture, whose name and frame take some room, and any other
MAX_BODY = MAX_BYTES + 2**16
MAX_MESSAGE = 2**20
# larger images are scaled down to this before they reach a network
MAX_SIDE = 1600
SECONDS = 30.0
# to send a request, and to read the picture in it, with as much memory
BODY_SECONDS = 60.0
READ_SECONDS = 20.0
READ_MEMORY = 4 * 2**30
# uploads at once, and bytes of those that nobody has read yet
UPLOADS = 4
WAITING_BYTES = 8 * MAX_BYTES
# requests that may wait; any more are refused
QUEUE = 16


def read_upload(path: Path, reading: Reading | None = None, noticed: Noticed | None = None) -> Image:
    """Read an uploaded image as the command line does, within the limits.

    Args:
        path: The uploaded file.
        reading: How a network wants it read.
        noticed: Told what is worth telling of it.

    Returns:
        An 8-bit image of mode `L` or `RGB` with no side over `MAX_SIDE`.

    Raises:
        ImageError: If it is not an image, or is broken.
        AppError: If the file is too large.
    """
    from PIL.Image import Resampling

    from involution.data.images import check_image, read_image

    check_image(path, reading)
    if path.stat().st_size > MAX_BYTES:
        raise AppError(f"{path.name}: the file is larger than {MAX_BYTES // 2**20} MB")
    image = read_image(path, reading=reading, noticed=noticed)
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.LANCZOS)
    return image


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop any network that this thread runs inside the block at its next layer once the time is up.

    Args:
        seconds: Counted from the start of the block.

    Raises:
        AppError: When the time is up.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    end = time.monotonic() + seconds
    thread = threading.get_ident()

    def check(module: Any, args: Any) -> None:
        if threading.get_ident() == thread and time.monotonic() > end:
            raise AppError(f"stopped after {seconds:g} seconds: the network is too slow for this image here")

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
