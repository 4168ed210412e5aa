"""Activation checkpointing: blocks that keep their input alone and are computed again when their gradient is needed."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from involution.engine.settings import ConfigError
from involution.engine.trunk import blocks


def recompute_blocks(network: nn.Module) -> None:
    """Let each block of the backbone be computed a second time, in training; gradients and weights stay the same.

    Raises:
        ConfigError: for a backbone without blocks.
    """
    found = blocks(network)
    if not found:
        raise ConfigError(
            f"trainer.activation_checkpointing: the backbone of {type(network).__name__} is not made of blocks"
        )
    for block in found:
        # a method of the block, so that a copy of it computes itself
        block.forward = types.MethodType(_forward, block)


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(block).forward, block)
    if not block.training or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=functools.partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _counted_once(block)


@contextmanager
def _counted_once(block: nn.Module) -> Iterator[None]:
    """Inside the context, batch norms normalise as ever, but leave their running statistics alone."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # new statistics count for nothing
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
