"""Image files whose end became zeros, as of copies and downloads that were broken off: they have their size."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

# as many zeros at the end of a file make it suspicious
_ZEROS = 64
# of JPEG: the marker of the pixels, and the end; of PNG: the last part, which is always the same
_PIXELS, _JPEG_END = 0xDA, b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# parts of WebP that hold pixels, coded so that they do not end with many zeros
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
# how the image library reads pixels that are stored as they are; and which share of them, and how many bytes, is black
# by chance in few images
_PLAIN = ("raw", "ppm")
_DARK, _LEAST_DARK, _CHUNK = 0.05, 4096, 1 << 20


def lost_end(file: BinaryIO) -> int:
    """How many bytes at the end of a JPEG, PNG, WebP, AVIF or HEIC file are zeros in place of its content.

    The image library makes something grey or black of them. What fills up a whole file behind its end is nothing lost,
    and of files that are not compressed nothing can be said for sure: see `has_dark_end`.

    Args:
        file: an open file, read from its beginning.

    Returns:
        0 for a file that is whole, or of another format.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _ZEROS))
    if file.read(_ZEROS).strip(b"\0"):
        return 0
    file.seek(0)
    content = file.read()
    if content[:2] == b"\xff\xd8":
        lost = content.find(_JPEG_END, _jpeg_pixels(content)) < 0
    elif content[:4] == b"\x89PNG":
        lost = content.rfind(_PNG_END) < 0
    elif content[:4] == b"RIFF":
        lost = _lost_in_webp(content)
    else:
        lost = content[4:8] == b"ftyp" and _lost_in_boxes(content)
    return length - len(content.rstrip(b"\0")) if lost else 0


def _jpeg_pixels(content: bytes) -> int:
    """Where the pixels begin: small pictures in the metadata before them have ends of their own."""
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != bytes([_PIXELS]):
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return place


def _lost_in_webp(content: bytes) -> bool:
    end = min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    place, last = 12, b""
    while place + 8 <= end:
        last = content[place : place + 4]
        if not last.strip(b"\0"):
            return True
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return last in _WEBP_PIXELS and not content[:end][-_ZEROS:].strip(b"\0")


def _lost_in_boxes(content: bytes) -> bool:
    place, last, size = 0, b"", 0
    while place + 8 <= len(content) and content[place + 4 : place + 8].strip(b"\0"):
        last, size = content[place + 4 : place + 8], int.from_bytes(content[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        if size < 8:
            # the last one, to the end of the file
            size = len(content) - place
        place += size
    return last == b"mdat" and not content[max(0, place - _ZEROS) : place].strip(b"\0")


def has_dark_end(file: BinaryIO, image: Image) -> bool:
    """Whether pixels that are stored as they are (BMP, PPM, TIFF) end, within a row, in zeros to the file's last byte.

    It may be black, but a copy that was broken off looks so, too. A black border begins with a row.

    Args:
        file: the image's file.
        image: opened, not decoded.
    """
    tiles = getattr(image, "tile", [])
    if not tiles or not all(tile[0] in _PLAIN for tile in tiles):
        return False
    length = file.seek(0, os.SEEK_END)
    start = min(tile[2] for tile in tiles)
    zeros = _zeros_at_end(file, length)
    if zeros < max(_LEAST_DARK, _DARK * (length - start)):
        return False
    row = (length - start) / image.height
    # counted from the end, where it may be filled up; the last row that is not black may end in a few black pixels
    inside = zeros % row
    return zeros < length - start and 0.02 * row < inside


def _zeros_at_end(file: BinaryIO, length: int) -> int:
    """How many bytes at the end of a file are zeros."""
    place = length
    while place:
        size = min(_CHUNK if place < length else _ZEROS, place)
        file.seek(place - size)
        content = file.read(size)
        left = len(content.rstrip(b"\0"))
        place -= size - left
        if left:
            break
    return length - place
