"""Activation checkpointing: what blocks of the backbone do not keep is computed again when their gradient is needed.

A block keeps its input alone, or also, selectively, the outputs of what takes long.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from involution.engine.settings import ConfigError
from involution.engine.trunk import blocks, find_trunk

# longer runs keep fewer of their blocks' inputs, and hold more while one is computed again
_BLOCKS_IN_A_RUN = 4
_here = threading.local()


def recompute_blocks(network: nn.Module, *, selective: bool = False) -> None:
    """Let the blocks of the backbone be computed a second time, in training; gradients and weights stay the same.

    Args:
        network: the classifier, detector or segmenter.
        selective: keep the outputs of convolutions, matrix products, attention and involutions, and the input of every
            fourth block of a stage, and compute norms, activations and sums alone again, with a ResNet's stem also
            its pooling. Activations then no longer work in place.

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
        block.forward = types.MethodType(_selective_forward if selective else _forward, block)
    if not selective:
        return
    stages = [
        module
        for module in find_trunk(network).modules()
        if type(module) is nn.Sequential and any(child in found for child in module.children())
    ]
    for stage in stages:
        stage.forward = types.MethodType(_forward_in_runs, stage)  # type: ignore[method-assign]
    stem = _after_first_convolution(find_trunk(network))
    for part, forward in zip(stem, (_norm_later, _activation_later, _stem_run), strict=False):
        part.forward = types.MethodType(forward, part)
    for part in (part for module in (*found, *stages, *stem) for part in module.modules()):
        # it would change what is kept
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(block).forward, block)
    if not block.training or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    contexts = functools.partial(_contexts, [block])
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _selective_forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(block).forward, block)
    if not block.training or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():
        contexts = functools.partial(create_selective_checkpoint_contexts, _policy)
    elif getattr(_here, "in_run", False):
        return forward(*args, **kwargs)
    else:
        # of a network that does not call its stages, but their blocks
        contexts = functools.partial(_selective_contexts, [block])
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _forward_in_runs(stage: Any, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or not stage.training or not torch.is_grad_enabled():
        return nn.Sequential.forward(stage, x)
    if getattr(_here, "in_run", False):
        return nn.Sequential.forward(stage, x)
    for run in _runs(stage):
        x = checkpoint(_run, run, x, use_reentrant=False, context_fn=functools.partial(_selective_contexts, run))
    return x


def _runs(stage: nn.Sequential) -> list[list[nn.Module]]:
    """The modules of a stage, cut after every few blocks."""
    runs: list[list[nn.Module]] = [[]]
    count = 0
    for module in stage:
        is_block = getattr(vars(module).get("forward"), "__func__", None) is _selective_forward
        if is_block and count == _BLOCKS_IN_A_RUN:
            runs.append([])
            count = 0
        runs[-1].append(module)
        count += is_block
    return runs


def _run(modules: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    _here.in_run = True
    try:
        for module in modules:
            x = module(x)
    finally:
        _here.in_run = False
    return x


def _after_first_convolution(trunk: nn.Module) -> list[nn.Module]:
    """Norm, activation and pooling of a ResNet's stem, where they are called in turn, for pooling's output alone."""
    from timm.models import FeatureListNet, ResNet
    from torchvision import models as torchvision

    if isinstance(trunk, ResNet):
        in_turn = type(trunk).forward_features is ResNet.forward_features
    elif isinstance(trunk, FeatureListNet):
        in_turn = trunk.return_layers.keys().isdisjoint({"bn1", "act1"})
    else:
        in_turn = type(trunk) is torchvision.ResNet
    parts = dict(trunk.named_children())
    names = [*parts][1:4]
    if not in_turn or names not in (["bn1", "act1", "maxpool"], ["bn1", "relu", "maxpool"]):
        return []
    # without pooling the activation's output is the first stage's input, which is kept
    return [] if isinstance(parts["maxpool"], nn.Identity) else [parts[name] for name in names]


def _norm_later(norm: Any, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or not norm.training or not torch.is_grad_enabled():
        return _plainly(norm, x)
    _here.later = x, [norm]
    return x


def _activation_later(activation: Any, x: Tensor) -> Tensor:
    later = _put_off(x)
    if not later:
        return _plainly(activation, x)
    later.append(activation)
    return x


def _stem_run(pooling: Any, x: Tensor) -> Tensor:
    later = _put_off(x)
    if not later:
        return _plainly(pooling, x)
    _here.later = None, []
    run = [*later, pooling]
    forwards = [functools.partial(_plainly, part) for part in run]
    return checkpoint(_run, forwards, x, use_reentrant=False, context_fn=functools.partial(_selective_contexts, run))


def _put_off(x: Tensor) -> list[nn.Module]:
    """What was put off; nothing where the norm was replaced after all, by SyncBatchNorm."""
    if torch.compiler.is_compiling():
        return []
    of, later = getattr(_here, "later", (None, []))
    return later if of is x else []


def _plainly(module: Any, x: Tensor) -> Tensor:
    output: Tensor = type(module).forward(module, x)
    return output


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    from torch.utils.flop_counter import flop_registry

    # what takes long is what torch can count the operations of; ours have told it theirs
    takes_long = getattr(operator, "overloadpacket", operator) in flop_registry
    return CheckpointPolicy.MUST_SAVE if takes_long else CheckpointPolicy.PREFER_RECOMPUTE


def _contexts(parts: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _counted_once(parts)


def _selective_contexts(parts: Sequence[nn.Module]) -> tuple[AbstractContextManager[Any], AbstractContextManager[None]]:
    keeping, reusing = create_selective_checkpoint_contexts(_policy)
    return keeping, _counted_once(parts, reusing)


@contextmanager
def _counted_once(parts: Sequence[nn.Module], also: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Inside the context, batch norms normalise as ever, but leave their running statistics alone."""
    modules = (module for part in parts for module in part.modules())
    norms = [norm for norm in modules if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # new statistics count for nothing
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with also or nullcontext():
            yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
