"""What counters of operations are told of involution: handlers for fvcore, ptflops and thop.

They see convolutions, and miss the application of the kernels unless they are told. All three count multiply-adds.
PyTorch's own `torch.utils.flop_counter.FlopCounterMode` needs nothing. ::

    FlopCountAnalysis(network, x).set_op_handle(**counting.fvcore())
    get_model_complexity_info(network, size, custom_modules_hooks=counting.ptflops())
    thop.profile(network, inputs=(x,), custom_ops=counting.thop())

Nothing here imports any of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from involution.nn.involution import Involution1d, Involution2d, Involution3d

_MODULES = (Involution1d, Involution2d, Involution3d)
Counts = WeakKeyDictionary[nn.Module, float]


def fvcore() -> dict[str, Callable[[Sequence[Any], Sequence[Any]], int]]:
    """Return handlers for ``fvcore.nn.FlopCountAnalysis.set_op_handle``, by name of the operator.

    Example:
        >>> sorted(fvcore())
        ['involution::involution2d', 'involution::involution3d']
    """

    def multiply_adds(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        weight, output = (value.type().sizes() for value in (inputs[1], outputs[0]))
        return _multiply_adds(weight, output)

    return {f"involution::involution{dims}d": multiply_adds for dims in (2, 3)}


def ptflops() -> dict[Any, Callable[..., Any]]:
    """Return ``custom_modules_hooks`` for ``ptflops.get_model_complexity_info``, whichever its backend.

    Example:
        >>> Involution2d in ptflops()
        True
    """
    seen: Counts = WeakKeyDictionary()

    def of_module(module: Any, inputs: Any, output: Tensor) -> None:
        inner = sum(getattr(part, "__flops__", 0) for part in module.modules() if part is not module)
        module.__flops__ += _own(module, output) + _new(seen, module, inner)

    def of_operator(inputs: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        return _multiply_adds(inputs[1].shape, outputs[0].shape)

    def of_fused_operator(inputs: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        reduced, span = inputs[1].shape, inputs[2].shape
        taps = span[1] * span[2]
        return reduced[0] * math.prod(reduced[2:]) * math.prod(span) + outputs[0].numel() * taps

    ops = torch.ops.involution
    return {
        **dict.fromkeys(_MODULES, of_module),
        **dict.fromkeys((ops.involution2d, ops.involution3d), of_operator),
        **dict.fromkeys((ops.dynamic_involution2d, ops.dynamic_involution2d_affine), of_fused_operator),
    }


def thop() -> dict[type[nn.Module], Callable[..., None]]:
    """Return ``custom_ops`` for ``thop.profile``. It takes a network with involutions in it, not one alone.

    Example:
        >>> Involution2d in thop()
        True
    """
    seen: Counts = WeakKeyDictionary()

    def of_module(module: Any, inputs: Any, output: Tensor) -> None:
        inner = sum(float(part.total_ops) for part in module.modules() if part is not module)
        module.total_ops += _own(module, output) + _new(seen, module, inner)

    return dict.fromkeys(_MODULES, of_module)


def _multiply_adds(weight: Sequence[int], output: Sequence[int]) -> int:
    # weight [N, G, *kernel_size, *output spatial]
    dims = (len(weight) - 2) // 2
    return math.prod(output) * math.prod(weight[2 : 2 + dims])


def _own(module: Any, output: Tensor) -> int:
    return output.numel() * math.prod(module.kernel_size)


def _new(seen: Counts, module: nn.Module, inner: float) -> float:
    # a counter that knows a module does not look into it: what its parts did since it was last called
    before, seen[module] = seen.get(module, 0), inner
    return inner - before
