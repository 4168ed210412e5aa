"""Whether a module may generate and apply its kernels at once, which passes by ``generator`` and ``generator.span``.

It may where nobody can tell the difference, except by time and memory. `may_fuse` holds all the conditions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from involution.ops.backends import fused_is_chosen, prefers_fused
from involution.ops.checks import is_exporting

# what runs when nothing was patched
_CONV2D, _FORWARD, _CONV_FORWARD = F.conv2d, nn.Conv2d.forward, nn.Conv2d._conv_forward
_PATCHES = ("forward", "_conv_forward", "_call_impl", "_wrapped_call_impl")


def may_fuse(generator: Any, generator_class: type[nn.Module], x: Any) -> bool:
    """Return whether the fused operator may take the place of ``generator(x)`` and the application of its kernels.

    Args:
        generator: The module's generator, whatever it was replaced by.
        generator_class: What it is where nobody replaced it.
        x: The module's input.
    """
    if is_exporting() or torch.jit.is_tracing():
        # the plain operator decomposes into PyTorch's own; tensors are stand-ins here, and torch's modes are active
        return fused_is_chosen() and _is_untouched(generator, generator_class)
    # a tensor subclass has its own idea of a convolution; a symbolic tracer's proxy is no tensor at all
    if type(x) not in (Tensor, nn.Parameter) or not prefers_fused(x.device, x.dtype):
        return False
    return _is_untouched(generator, generator_class) and _has_own_parameters(generator.span, x) and not is_observed()


def is_observed() -> bool:
    """Return whether somebody sees or changes each operation: by hooks on all modules, a mode, or other functions."""
    return _everything_is_watched() or _is_in_a_mode()


def is_touched(module: nn.Module) -> bool:
    """Return whether a module has hooks, or something else in place of its own ``forward``."""
    return _is_patched(module) or _is_watched(module)


def _is_untouched(generator: Any, generator_class: type[nn.Module]) -> bool:
    # another generator, or one with another span, makes the map its own way: parametrised, adapted, quantised
    if type(generator) is not generator_class or type(generator.span) is not nn.Conv2d:
        return False
    return _is_pointwise(generator.span) and not any(is_touched(part) for part in (generator, generator.span))


def _is_pointwise(span: nn.Conv2d) -> bool:
    # somebody may have put another convolution there
    geometry = span.kernel_size, span.stride, span.padding, span.groups, span.padding_mode
    return geometry == ((1, 1), (1, 1), (0, 0), 1, "zeros")


def _has_own_parameters(span: nn.Conv2d, x: Tensor) -> bool:
    # a subclass, such as a quantised or distributed tensor, can't be reshaped; one that is elsewhere comes when the
    # module is called; another dtype is the convolution's to refuse
    casts = torch.is_autocast_enabled(x.device.type)
    return all(
        type(p) in (Tensor, nn.Parameter) and p.device == x.device and (p.dtype == x.dtype or casts)
        for p in (span.weight, span.bias)
        if p is not None
    )


def _is_patched(module: nn.Module) -> bool:
    # on the instance, as by accelerate, or by a compiler of its own
    return module._compiled_call_impl is not None or any(name in module.__dict__ for name in _PATCHES)


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _everything_is_watched() -> bool:
    # functions that a counter of operations has replaced, and hooks on all modules
    if F.conv2d is not _CONV2D or nn.Conv2d.forward is not _FORWARD or nn.Conv2d._conv_forward is not _CONV_FORWARD:
        return True
    return bool(
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def _is_in_a_mode() -> bool:
    # a user's mode is called for every operation; a default device is none of these, and neither are torch's own,
    # most of which have a key: fake tensors, functionalisation, the tracer of graphs
    if any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack()):
        return True
    # where a dispatch mode is active, torch.compile does not compile
    if torch.compiler.is_compiling():
        return False
    return any(
        # selective activation checkpointing keeps outputs and gives them back, whatever they are of
        getattr(mode, "_mode_key", None) is None and type(mode).__module__ != "torch.utils.checkpoint"
        for mode in _get_current_dispatch_mode_stack()
    )
