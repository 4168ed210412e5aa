"""How the operators run on distributed tensors (`torch.distributed.tensor`): which of their shards fit together.

Each works on a part of the batch, and on a part of the groups with their channels where the devices divide the groups.
What would need more than its own shard is not listed, and DTensor moves the data instead. The strategies are registered
when somebody imports ``torch.distributed.tensor``.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from involution.after import after_import

# placements of the outputs, and of each argument: None for what is no tensor
Sharding = tuple[list, list]


def _register(module: ModuleType) -> None:
    from torch.distributed.tensor.experimental import register_sharding

    ops = torch.ops.involution
    for dims in (2, 3):
        register_sharding(getattr(ops, f"involution{dims}d").default)(_by_parts(_forward))
        register_sharding(getattr(ops, f"involution{dims}d_grad_input").default)(_by_parts(_grad_input))
        register_sharding(getattr(ops, f"involution{dims}d_grad_weight").default)(_by_parts(_grad_weight))
    register_sharding(ops.dynamic_involution2d.default)(_by_parts(_dynamic))
    register_sharding(ops.dynamic_involution2d_affine.default)(_by_parts(_affine))
    register_sharding(ops.dynamic_involution2d_backward.default)(_by_parts(_dynamic_backward))


def _by_parts(strategy: Callable[..., list[Sharding]]) -> Callable[..., list[Sharding]]:
    def of_tensors(*args: Any) -> list[Sharding]:
        # padded with None for the arguments that are no tensors, or missing ones
        ways = []
        for outputs, inputs in strategy(*args):
            given = [*inputs, *[None] * (len(args) - len(inputs))][: len(args)]
            ways.append((outputs, [p if hasattr(arg, "mesh") else None for p, arg in zip(given, args, strict=True)]))
        return ways

    return of_tensors


def _placements() -> tuple[Any, Any, Any]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    return Shard, Replicate(), Partial()


def _divides(tensor: Any, groups: int) -> bool:
    return groups % tensor.mesh.size() == 0


def _forward(input: Any, weight: Any, *geometry: Any) -> list[Sharding]:
    shard, everywhere, _ = _placements()
    ways: list[Sharding] = [([everywhere], [everywhere, everywhere]), ([shard(0)], [shard(0), shard(0)])]
    groups = weight.shape[1]
    if _divides(input, groups):
        ways.append(([shard(1)], [shard(1), shard(1)]))
    elif groups == 1:
        ways.append(([shard(1)], [shard(1), everywhere]))
    return ways


def _grad_input(grad: Any, weight: Any, *rest: Any) -> list[Sharding]:
    # as forward: the output's channels come from the same of the gradient
    return _forward(grad, weight)


def _grad_weight(grad: Any, input: Any, groups: int, *rest: Any) -> list[Sharding]:
    shard, everywhere, partial = _placements()
    ways: list[Sharding] = [([everywhere], [everywhere, everywhere]), ([shard(0)], [shard(0), shard(0)])]
    # the number of groups is an argument, which every shard gets whole: only one group can be taken apart
    if groups == 1:
        ways.append(([partial], [shard(1), shard(1)]))
    return ways


def _dynamic(input: Any, reduced: Any, span_weight: Any, *rest: Any) -> list[Sharding]:
    return _affine(input, reduced, span_weight, *rest)


def _affine(input: Any, reduced: Any, span_weight: Any, *rest: Any) -> list[Sharding]:
    shard, everywhere, _ = _placements()
    # input, reduced, span weight and bias, three of geometry, scale and shift
    ways: list[Sharding] = [
        ([everywhere], [everywhere] * 4 + [None] * 3 + [everywhere] * 2),
        ([shard(0)], [shard(0), shard(0), everywhere, everywhere] + [None] * 3 + [everywhere] * 2),
    ]
    if _divides(input, span_weight.shape[0]):
        ways.append(([shard(1)], [shard(1), everywhere, shard(0), shard(0)] + [None] * 3 + [shard(0)] * 2))
    return ways


def _dynamic_backward(grad: Any, input: Any, reduced: Any, span_weight: Any, *rest: Any) -> list[Sharding]:
    shard, everywhere, partial = _placements()
    ways: list[Sharding] = [([everywhere] * 4, [everywhere] * 5)]
    by_batch = [shard(0), shard(0), partial, partial]
    ways.append((by_batch, [shard(0), shard(0), shard(0), everywhere, everywhere]))
    if _divides(input, span_weight.shape[0]):
        by_group = [shard(1), partial, shard(0), shard(0)]
        ways.append((by_group, [shard(1), shard(1), everywhere, shard(0), shard(0)]))
    mask = rest[-1]
    # a gradient that nobody asked for is empty everywhere
    return [([p if m else everywhere for p, m in zip(out, mask, strict=True)], given) for out, given in ways]


after_import("torch.distributed.tensor", _register)
