"""What the parts of a data set have in common: their files, and how these are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from involution.data.addresses import is_remote
from involution.data.arrays import ArrayDataset
from involution.data.box_dataset import BoxDataset
from involution.data.contents import Stored
from involution.data.images import Reading, read_image
from involution.data.label_maps import LabelMaps
from involution.data.records import item_name


def files_of(part: Any) -> list[Path]:
    """The image files of a part; empty where it has none of its own, as shards and arrays."""
    if isinstance(part, BoxDataset):
        return [scene.file for scene in part.record.scenes]
    if isinstance(part, LabelMaps):
        return [file for file, _ in part.pairs]
    return list(getattr(part, "files", []))


def stored_of(part: Any) -> list[Stored]:
    """Where the bytes of each image of a part are: its file, or a place in a shard.

    Empty for arrays, and for shards at an address, which are not read twice.
    """
    if files := files_of(part):
        return [Stored(file) for file in files]
    if hasattr(part, "stored"):
        return [] if is_remote(part.shards[0]) else [part.stored(index) for index in range(len(part))]
    if hasattr(part, "indices"):
        # a torch Subset
        whole = stored_of(part.dataset)
        return [whole[index] for index in part.indices] if whole else []
    return stored_of(part.source) if hasattr(part, "source") else []


def arrays_of(part: Any) -> bool:
    """Whether the images of a part lie in memory, as those of the embedded data sets do."""
    inner = getattr(part, "dataset", None) or getattr(part, "source", None)
    return isinstance(part, ArrayDataset) or (inner is not None and arrays_of(inner))


def image_of(part: Any, index: int) -> Any:
    """An image of a part as it is read, without its labels: of the image library, or an array [H, W, C].

    Raises:
        ImageError: for one that can't be read.
    """
    if files := files_of(part):
        return read_image(files[index], reading=reading_of(part))
    image = part[index][0]
    return image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image


def short_name(part: Any, index: int) -> str:
    """The name of an image with its folder or shard: cat/7.jpg, train-0.tar:0007."""
    shard, is_shard, key = item_name(part, index).partition(".tar:")
    if is_shard:
        return f"{Path(shard).name}.tar:{key}"
    path = Path(shard)
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def reading_of(part: Any) -> Reading:
    """How the images of a part are read."""
    inner = getattr(part, "dataset", None) or getattr(part, "source", None)
    found = getattr(part, "reading", None)
    return found or (Reading() if inner is None else reading_of(inner))
