"""Reading image files that somebody else made: sizes are checked before a pixel is decoded."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_000_000
# above this number of files headers are not read beforehand: it would take minutes
CHECK_LIMIT = 50_000
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# formats with decoders in the image library itself; the others call programs or are rarely seen
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


class ImageError(ValueError):
    """An image that can't be read; the message names the file and the cause."""


def read_image(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Image:
    """Read an image as 8-bit grey or RGB, upright.

    Transparent parts become white, 16-bit grey is scaled to 8 bits, the EXIF orientation is applied, and of
    an animation the first frame is taken.

    Args:
        source: a file, or its bytes.
        name: what an error calls the image; the path by default.

    Returns:
        An image of mode `L` where the source is grey, else `RGB`.

    Raises:
        ImageError: for a missing, empty, truncated or broken file, one that is no image, or one of more than
            `MAX_PIXELS` pixels (refused before decoding).
    """
    if isinstance(source, bytes):
        name = name or "image"
        if not source:
            raise ImageError(f"{name}: the file is empty (0 bytes)")
        return _decode(io.BytesIO(source), name)
    path = Path(source)
    name = name or str(path)
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty (0 bytes)")
        with path.open("rb") as file:
            return _decode(file, name)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{name}: can't be opened ({error.strerror})") from error


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Check an image file's header and size without decoding it; raises as `read_image` does.

    Returns:
        Width and height, upright, as `read_image` gives it.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes)")
        with path.open("rb") as file:
            image = _open(file, str(path))
            width, height = image.size
            if image.format == "PNG" and "exif" not in image.info:
                # the library would decode the whole image to look for it
                return width, height
            try:
                turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
            except (ValueError, SyntaxError, EOFError, struct.error) as error:
                raise ImageError(f"{path}: broken image ({error})") from error
            return (height, width) if turned else (width, height)
    except OSError as error:
        raise ImageError(f"{path}: can't be opened ({error.strerror or error})") from error


def _open(file: BinaryIO, name: str) -> Image:
    import PIL.Image

    with warnings.catch_warnings():
        # the size is judged below, by our own limit
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            image = PIL.Image.open(file, formats=_FORMATS)
        except PIL.Image.DecompressionBombError as error:
            raise ImageError(f"{name}: too large to decode ({error})") from error
        except PIL.UnidentifiedImageError as error:
            raise ImageError(f"{name}: not an image in a known format") from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ImageError(f"{name}: broken image ({error})") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded")
    return image


def _decode(file: BinaryIO, name: str) -> Image:
    from PIL import ImageOps

    image = _open(file, name)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        return to_8_bit(image)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError, struct.error) as error:
        raise ImageError(f"{name}: broken or truncated image ({error})") from error


def to_8_bit(image: Image) -> Image:
    """An opened image of any mode as `L` where it is grey, else `RGB`; transparent parts become white."""
    import PIL.Image

    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        import numpy as np

        pixels = np.asarray(image).astype(np.float64)
        # 16-bit files keep their range; pixels beyond it, and floats, are stretched to what they hold
        top = 65535.0 if image.mode != "F" and pixels.max(initial=0) <= 65535 else max(pixels.max(initial=0), 1e-12)
        return PIL.Image.fromarray((pixels.clip(0, top) * (255.0 / top)).round().astype(np.uint8), mode="L")
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, "white")
        flat = PIL.Image.alpha_composite(white, rgba)
        return flat.convert("L" if image.mode in ("LA", "La") else "RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")
