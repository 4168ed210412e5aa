"""What one request may cost: bytes and pixels of an upload, seconds of a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import AppError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
# larger images are shrunk to this before a network sees them
MAX_SIDE = 1600
# a network that resizes the shorter side would make the longer one that much longer
MAX_RATIO = 10
SECONDS = 30.0
# requests that wait; the next one is refused
QUEUE = 16


def read_upload(path: Path) -> Image:
    """Read what somebody uploaded, within the limits.

    Args:
        path: The uploaded file.

    Returns:
        An 8-bit image of mode `L` or `RGB` with no side over `MAX_SIDE`.

    Raises:
        ImageError: If it is no image, or a broken one.
        AppError: If it is too large or too narrow.
    """
    from PIL.Image import Resampling

    from involution.data.images import check_image, read_image

    width, height = check_image(path)
    if path.stat().st_size > MAX_BYTES:
        raise AppError(f"{path.name}: the file is larger than {MAX_BYTES // 2**20} MB")
    if width * height > MAX_PIXELS:
        raise AppError(f"{path.name}: {width} × {height} pixels are more than {MAX_PIXELS // 1_000_000} million")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise AppError(f"{path.name}: {width} × {height} pixels; one side is more than {MAX_RATIO} times the other")
    image = read_image(path)
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.LANCZOS)
    return image


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the networks that this thread runs inside the block, at their next layer, once the time is over.

    Args:
        seconds: From the block's begin.

    Raises:
        AppError: When the time is over.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    end = time.monotonic() + seconds
    thread = threading.get_ident()

    def check(module: Any, args: Any) -> None:
        if threading.get_ident() == thread and time.monotonic() > end:
            raise AppError(f"stopped after {seconds:g} seconds: this network is too slow here for this image")

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
