"""Images known by what they hold: by the bytes that are stored, and by their pixels, whatever the file's format."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 1 << 20


class Stored(NamedTuple):
    """Where the bytes of an image are: a file, or a part of one.

    Attributes:
        file: the file.
        offset: where they begin.
        size: how many; None for the whole file.
    """

    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def length(self) -> int:
        """How many bytes there are; -1 where the file is gone."""
        try:
            return self.file.stat().st_size if self.size is None else self.size
        except OSError:
            return -1

    def open(self) -> Path | BinaryIO:
        """The file, or a stream of the part of it.

        Raises:
            OSError: for a file that can't be read.
        """
        if self.size is None:
            return self.file
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


def number_of(*content: bytes) -> int:
    """A number of 64 bits, with its sign, that stands for some bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in content:
        found.update(part)
    return int.from_bytes(found.digest(), "big", signed=True)


def stored_number(stored: Stored) -> int | None:
    """A number that stands for the stored bytes of an image; None where they can't be read."""
    found = hashlib.blake2b(digest_size=8)
    left = stored.length
    try:
        with stored.file.open("rb") as file:
            file.seek(stored.offset)
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                found.update(chunk)
                left -= len(chunk)
    except OSError:
        return None
    return int.from_bytes(found.digest(), "big", signed=True)


def pixel_number(image: Image | np.ndarray[Any, Any]) -> int:
    """A number that stands for the pixels of an image as it is read, [H, W, C] if it is an array.

    Grey that is stored in three channels is grey.
    """
    pixels = np.ascontiguousarray(np.atleast_3d(np.asarray(image)))
    if pixels.shape[2] == 3 and (pixels[..., :1] == pixels[..., 1:]).all():
        pixels = np.ascontiguousarray(pixels[..., :1])
    return number_of(repr(pixels.shape).encode(), pixels.tobytes())


def stored_numbers(places: Sequence[Stored]) -> list[int | None]:
    """`stored_number` of each."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(stored_number, places))


def equal_contents(places: Sequence[Stored]) -> list[list[int]]:
    """Which of some images have the same stored bytes: their indices, those of one content together.

    Only images of equal length are read.
    """
    lengths = [place.length for place in places]
    counts = Counter(lengths)
    candidates = [index for index, length in enumerate(lengths) if counts[length] > 1 and length > 0]
    groups: dict[int | None, list[int]] = defaultdict(list)
    for index, number in zip(candidates, stored_numbers([places[index] for index in candidates]), strict=True):
        groups[number].append(index)
    return [group for number, group in groups.items() if number is not None and len(group) > 1]
