"""Checkpoints in parts: tensors that several processes share, in safetensors files in a folder beside the checkpoint.

The checkpoint itself says which files these are, with the checksum of each, and which tensors they hold. PyTorch's
distributed checkpoints (`torch.distributed.checkpoint`) read and write the parts, for any number of processes; their
own index is a pickle and not used.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from involution.models.errors import CheckpointError

# in a checkpoint: what `Shards.to_dict` returns
KEY = "shards_beside"
FOLDER = re.compile(r"shards-\d{1,9}-\d{1,9}-[0-9a-f]{8}")
_FILE = re.compile(r"[\w-]{1,80}\.safetensors")
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
}
# of a tensor in the mappings and lists of a checkpoint
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Shards:
    """What a checkpoint says of its parts.

    Attributes:
        folder: where they are.
        files: size and SHA-256 of each.
        tensors: shape and type of each tensor in them, by its place in the checkpoint.
    """

    folder: Path
    files: Mapping[str, tuple[int, str]]
    tensors: Mapping[Place, tuple[tuple[int, ...], torch.dtype]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """As it is kept in a checkpoint: plain types."""
        tensors = [
            [list(place), list(shape), str(dtype).removeprefix("torch.")]
            for place, (shape, dtype) in self.tensors.items()
        ]
        return {"folder": self.folder.name, "files": {k: list(v) for k, v in self.files.items()}, "tensors": tensors}

    @classmethod
    def of(cls, content: Any, file: object) -> "Shards | None":
        """What a checkpoint says of its parts; None where it is whole.

        Args:
            content: the checkpoint.
            file: where it comes from.

        Raises:
            CheckpointError: for what no training writes.
        """
        if not isinstance(content, Mapping) or KEY not in content:
            return None
        try:
            found = content[KEY]
            files = {name: (int(size), str(digest)) for name, (size, digest) in found["files"].items()}
            tensors = {tuple(place): (tuple(shape), _DTYPES[dtype]) for place, shape, dtype in found["tensors"]}
            right = FOLDER.fullmatch(found["folder"]) and all(map(_FILE.fullmatch, files))
            steps = [step for place in tensors for step in place]
            right = right and all(isinstance(step, str) or type(step) is int for step in steps)
            sizes = [size for shape, _ in tensors.values() for size in shape]
            right = right and all(type(size) is int and 0 <= size < 2**40 for size in sizes)
            # PyTorch takes the product of an empty tensor's other sizes, too
            right = right and all(math.prod(size or 1 for size in shape) < 2**60 for shape, _ in tensors.values())
            claimed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())
            right = right and claimed <= sum(size for size, _ in files.values())
        # what is not a record can be anything
        except Exception:
            right = None
        if not right:
            raise CheckpointError(f"{file} is damaged: what it says of its parts is not what a training writes")
        return cls(Path(str(file)).parent / found["folder"], files, tensors)

    def check(self, file: Path) -> None:
        """Raise `CheckpointError` unless every part is there, whole, and no other.

        Args:
            file: the checkpoint, for messages.
        """
        there = {entry.name for entry in self.folder.glob("*.safetensors")} if self.folder.is_dir() else set()
        if there != set(self.files):
            lost = sorted(set(self.files) - there)
            what = f"{lost[0]} is missing from it" if lost and there else "it is missing" if lost else "it holds more"
            raise CheckpointError(f"{file} has its weights in the folder {self.folder} beside it, and {what}")
        for name, (size, digest) in self.files.items():
            part = self.folder / name
            # a pipe or device would be read for ever
            if not part.is_file():
                raise CheckpointError(f"{part} is damaged: it is no file")
            if part.stat().st_size != size:
                raise CheckpointError(f"{part} is damaged: it has {part.stat().st_size:,} bytes instead of {size:,}")
            if checksum_of(part) != digest:
                raise CheckpointError(f"{part} is damaged: its checksum is wrong")

    def read(self, file: Path) -> dict[Place, torch.Tensor]:
        """All tensors, each whole.

        Args:
            file: the checkpoint, for messages.

        Raises:
            CheckpointError: for parts that can't be read.
        """
        tensors = {place: torch.zeros(shape, dtype=dtype) for place, (shape, dtype) in self.tensors.items()}
        self.read_into(tensors, file, alone=True)
        return tensors

    def read_into(self, tensors: Mapping[Place, torch.Tensor], file: Path, *, alone: bool = False) -> None:
        """Fill tensors, of which each process may have a part of its own (`DTensor`).

        Args:
            tensors: by their places, of the right shapes and types.
            file: the checkpoint, for messages.
            alone: other processes don't take part.

        Raises:
            CheckpointError: for parts that can't be read.
        """
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        by_name = {name_of(place): tensor for place, tensor in tensors.items()}
        reader = HuggingFaceStorageReader(str(self.folder))
        try:
            with warnings.catch_warnings():
                # that no other processes take part is what is meant
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.load(by_name, storage_reader=reader, no_dist=alone)
            # which it would convert
            stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
            for name, found in stored.items():
                if name in by_name and found.properties.dtype != by_name[name].dtype:
                    raise TypeError(f"{name} is {found.properties.dtype}, wanted {by_name[name].dtype}")
        # a file system that can't map files, and bytes that mean something else, fail in every way; the second is no
        # Exception
        except (Exception, CheckpointException) as error:
            causes = [first for first, _ in getattr(error, "failures", {}).values()] or [error]
            line = " ".join(str(causes[0]).split())[:200]
            raise CheckpointError(f"{file}: its parts in {self.folder} can't be read: {line}") from error


def name_of(place: Place) -> str:
    """The name of a tensor in the files: "state_dict/model.conv1.weight"."""
    return "/".join(map(str, place))


def fill(content: Any, tensors: Mapping[Place, torch.Tensor], file: Path) -> None:
    """Put tensors into their places in a checkpoint, where None is.

    Raises:
        CheckpointError: if it has no such places.
    """
    for place, tensor in tensors.items():
        node = content
        try:
            for step in place[:-1]:
                node = node[step]
            free = node[place[-1]] is None
        except (TypeError, KeyError, IndexError):
            free = False
        if not free:
            raise CheckpointError(f"{file} is damaged: it has no place for {name_of(place)[:100]!r}")
        node[place[-1]] = tensor


def fill_from_parts(content: Any, file: Path, *, whole: bool, device: str | torch.device = "cpu") -> None:
    """Check the parts of a checkpoint, and put their tensors into it.

    Args:
        content: the checkpoint.
        file: where it comes from.
        whole: read them; otherwise their shapes alone are put there, as tensors on the device "meta".
        device: where they go.

    Raises:
        CheckpointError: for parts that are missing or damaged.
    """
    shards = Shards.of(content, file)
    if shards is None:
        return
    shards.check(file)
    if whole:
        tensors = {place: tensor.to(device) for place, tensor in shards.read(file).items()}
    else:
        tensors = {p: torch.empty(shape, dtype=dtype, device="meta") for p, (shape, dtype) in shards.tensors.items()}
    fill(content, tensors, file)


def folders_of(files: Iterable[Path]) -> set[str] | None:
    """Names of the folders with the parts of some checkpoints; None if one of these can't be read."""
    names = set()
    for file in files:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            shards = Shards.of(content, file)
        # whatever it is, it may still be needed
        except Exception:
            return None
        if shards is not None:
            names.add(shards.folder.name)
    return names


def checksum_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
