"""Checkpoints of a training whose devices share the weights out: each device writes its own part.

last.ckpt is a file as ever, with everything but the tensors that are shared out, which are in a folder beside it
(`involution.models.shards`). So it is whole or not there: the folder is complete before the file takes the place of the
one before. Any number of devices can go on from it, also without sharing the weights out.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from involution.models.shards import KEY, Place, Shards, checksum_of, fill, name_of


def take_parts(content: Any) -> tuple[Any, dict[Place, Any]]:
    """A copy of a checkpoint with None for each tensor that is shared out, and these tensors by their places."""
    from torch.distributed.tensor import DTensor, Shard

    found: dict[Place, Any] = {}

    def taken(value: Any, place: Place) -> Any:
        if isinstance(value, DTensor):
            if value.placements != (Shard(0),):
                return value.full_tensor()
            found[place] = value
            return None
        if isinstance(value, Mapping):
            return {key: taken(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [taken(inner, (*place, index)) for index, inner in enumerate(value)]
        return value

    return taken(content, ()), found


def whole_on_first(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without parts, in the memory of the first process; nothing in the others. All take part."""
    first, whole = dist.get_rank() == 0, {}
    for name, value in weights.items():
        # one at a time: the others keep nothing
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        if first:
            whole[name] = full.cpu()
    return whole


def write_parts(folder: Path, tensors: Mapping[Place, Any]) -> Shards:
    """Write tensors into a new folder, each process its own part; all take part.

    Raises:
        OSError: on all of them, if one can't write; the folder is then gone.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    with _told_by_all(folder):
        by_name = {name_of(place): tensor for place, tensor in tensors.items()}
        dcp.save(by_name, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    dist.barrier()
    rank, world = dist.get_rank(), dist.get_world_size()
    own = {
        file.name: (file.stat().st_size, checksum_of(file))
        for file in sorted(folder.glob("*.safetensors"))[rank::world]
    }
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, own)
    files = {name: found for part in parts for name, found in part.items()}
    return Shards(folder, files, {place: (tuple(one.shape), one.dtype) for place, one in tensors.items()})


@contextmanager
def _told_by_all(folder: Path) -> Iterator[None]:
    """Raise what kept a process from writing as an `OSError`, and leave nothing half written."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        if dist.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        causes = [cause for cause, _ in error.failures.values()]
        found = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno), None)
        number = found.errno if found is not None and found.errno else errno.EIO
        raise OSError(number, os.strerror(number), str(folder)) from error


def read_parts(content: dict[str, Any], file: Path, mesh: Any) -> None:
    """Put the tensors of a checkpoint in parts into it, of each this device's part.

    Args:
        content: what is in the file.
        file: the checkpoint, which was checked.
        mesh: the devices.
    """
    from torch.distributed.tensor import Shard, empty

    shards = Shards.of(content, file)
    if shards is None:
        return
    tensors = {
        place: empty(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
        for place, (shape, dtype) in shards.tensors.items()
    }
    shards.read_into(tensors, file)
    fill(content, tensors, file)


def share_out(content: dict[str, Any], weights: Mapping[str, Tensor], optimizers: list[Any]) -> None:
    """Replace the whole tensors of a checkpoint by this device's part of each.

    Args:
        content: a checkpoint, perhaps in parts already.
        weights: of the training, by name, shared out.
        optimizers: of the training.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    def like(value: Any, model: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, DTensor) or value.shape != model.shape:
            return value
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)

    for entry in ("state_dict", "current_model_state"):
        for name, value in content.get(entry, {}).items():
            if isinstance(weights.get(name), DTensor):
                content[entry][name] = like(value, weights[name])
    for optimizer, saved in zip(optimizers, content["optimizer_states"], strict=True):
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        for number, state in saved["state"].items():
            saved["state"][number] = {name: like(value, parameters[number]) for name, value in state.items()}


def read_checkpoint_of(file: Path) -> dict[str, Any]:
    """What is in a checkpoint that was checked, without its parts."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def with_parts(content: Any, shards: Shards) -> dict[str, Any]:
    """A checkpoint without the tensors in some parts, and what it says of these."""
    return {**content, KEY: shards.to_dict()}
