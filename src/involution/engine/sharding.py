"""Networks whose weights are shared out among devices, by PyTorch's `fully_shard` (FSDP2).

A unit, a block of the backbone or all the rest, is gathered on every device while it computes, and no longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from involution.engine.settings import ConfigError
from involution.engine.trunk import blocks


def shard(network: nn.Module, mesh: Any, *, unused: bool = False) -> None:
    """Leave each device its part of every weight of a network.

    Args:
        network: the classifier, detector or segmenter, the same on all devices.
        mesh: the devices.
        unused: some parameters may have no part in the loss of a device.

    Raises:
        ConfigError: for a network that can't be shared out.
    """
    from torch.distributed.fsdp import fully_shard

    # the only order that it knows; in channels_last trainings the images still have theirs
    network.to(memory_format=torch.contiguous_format)
    try:
        for block in blocks(network):
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(
            f"trainer.strategy fsdp can't share out {type(network).__name__}: {line}; choose ddp"
        ) from error
    network.set_reduce_scatter_unused_params(unused)  # type: ignore[operator]


def is_sharded(network: nn.Module) -> bool:
    """Whether devices share its weights out."""
    return hasattr(network, "set_reshard_after_forward")


def gather(network: nn.Module) -> None:
    """Give each device all weights, for any number of forward passes, until `release`; all devices take part."""
    for unit in _units(network):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def release(network: nn.Module) -> None:
    """Leave each device its part alone."""
    for unit in _units(network):
        # the outermost unit is needed again as soon as the gradients are
        unit.set_reshard_after_forward(unit is not network, recurse=False)
        unit.reshard()


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Inside the context each device has all weights of a network that is perhaps shared out."""
    gather(network)
    try:
        yield
    finally:
        release(network)


def own_part(tensor: Tensor) -> Tensor:
    """What this device has of a tensor that is perhaps shared out."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _units(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if is_sharded(module)]
