"""WebDataset shards: tar files whose members of one name belong together, `0001.jpg` beside `0001.cls`."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from involution.data.errors import DataError
from involution.data.images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGES = ("jpg", "jpeg", "png", "webp")


class ShardDataset(Dataset[tuple[Any, int]]):
    """The images of local shards, reached by an index of the tar headers.

    Through the index a shard is read at any place, so that shuffling, resuming and sharing among devices are
    as exact as with folders. Only image bytes and the digits of `.cls` members are read: nothing is unpickled.

    Args:
        shards: tar files.
        num_classes: labels must be below it.
    """

    def __init__(self, shards: Sequence[Path], num_classes: int) -> None:
        # (shard, offset, size, key) of each image
        self.entries: list[tuple[int, int, int, str]] = []
        self.labels: list[int] = []
        self.shards = list(shards)
        for number, shard in enumerate(self.shards):
            self._index(number, shard, num_classes)
        if not self.entries:
            raise DataError(f"{self.shards[0]}: no samples; wanted members such as 0001.jpg with 0001.cls")

    def _index(self, number: int, shard: Path, num_classes: int) -> None:
        from webdataset.tariterators import base_plus_ext

        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, int] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    key, extension = base_plus_ext(member.name)
                    if not member.isfile() or key is None:
                        continue
                    if extension.lower() in _IMAGES:
                        images[key] = (member.offset_data, member.size)
                    elif extension.lower() == "cls":
                        labels[key] = _label(archive, member, shard, num_classes)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{shard}: not a readable, uncompressed tar file ({error})") from error
        alone = sorted(images.keys() ^ labels.keys())
        if alone:
            raise DataError(f"{shard}: {len(alone)} samples lack their image or .cls member, such as {alone[0]}")
        for key, (offset, size) in images.items():
            self.entries.append((number, offset, size, key))
            self.labels.append(labels[key])

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        number, offset, size, key = self.entries[index]
        with self.shards[number].open("rb") as file:
            file.seek(offset)
            return read_image(file.read(size), name=f"{self.shards[number]}:{key}"), self.labels[index]


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, num_classes: int) -> int:
    # a class number has few digits: never read more of a file that claims to be one
    stream = archive.extractfile(member)
    text = stream.read(32).decode("ascii", "replace").strip() if stream is not None else ""
    if not text.isdigit() or int(text) >= num_classes:
        raise DataError(f"{shard}: {member.name} holds {text!r}; wanted a class number from 0 to {num_classes - 1}")
    return int(text)
