"""Replace the convolutions of an existing network by involutions."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from involution.nn.involution import Involution1d, Involution2d, Involution3d
from involution.ops.checks import per_dimension

_INVOLUTION: dict[type[nn.Module], Any] = {
    nn.Conv1d: Involution1d,
    nn.Conv2d: Involution2d,
    nn.Conv3d: Involution3d,
}

Size = int | tuple[int, ...]


@dataclass
class ConversionReport:
    """What `convert_conv_to_involution` did.

    Attributes:
        model: The converted network (the same object, unless it was a single convolution itself).
        replaced: Name of each replaced convolution, with what it was and what it is now.
        skipped: Name of each k×k convolution left as it was, with the reason.
        parameters: Parameters of the network before and after.

    Example:
        >>> print(convert_conv_to_involution(nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1))))
        replaced 1 convolutions, left 1; 10,144 parameters before, 1,362 after
          1: Conv2d(32, 32, ...) -> Involution2d(32, kernel_size=(3, 3), groups=2, bias=True)
          0: left as it is, only 3 input channels to generate kernels from
    """

    model: nn.Module
    replaced: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    parameters: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)} convolutions, left {len(self.skipped)}"]
        lines[0] += f"; {self.parameters[0]:,} parameters before, {self.parameters[1]:,} after"
        lines += [f"  {name}: {what}" for name, what in self.replaced.items()]
        lines += [f"  {name}: left as it is, {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


def convert_conv_to_involution(
    model: nn.Module,
    *,
    kernel_size: Size | Mapping[str, Size] | Callable[[str, nn.Module], Size | None] | None = None,
    select: Callable[[str, nn.Module], bool] | None = None,
    **options: Any,
) -> ConversionReport:
    """Replace the k×k convolutions (k > 1) of a network by involutions of the same output size, in place.

    Each is replaced by a newly initialised involution (a convolution's weights can't be carried over) with the same
    device, dtype, stride, dilation, padding mode and bias. If the convolution changes the number of channels, a 1×1
    convolution projects first. Some convolutions stay, and are listed with the reason: those whose input has fewer than
    16 channels (such as an image; generate kernels from features instead), those whose channels are not divisible into
    groups, and transposed and lazy ones.

    Args:
        model: Any network.
        kernel_size: Size of the involutions: an int, a tuple such as ``(7, 3)``, a dict of them by the convolution's
            name, or a function of the name and the convolution. By default, where the dict has no entry, and where the
            function returns None, it is the convolution's own. (RedNet replaces 3×3 by 7×7.)
        select: Called with the name and the convolution; False leaves it as it is.
        **options: Further arguments for `Involution2d`: groups, group_channels, reduction_ratio, norm_layer, act_layer.

    Returns:
        A report with the network, what was replaced and what was not; ``print(report)`` shows it.

    Raises:
        TypeError: If an option is not one of `Involution2d`'s.
        ValueError: If the value of an option is out of range whatever the convolution (kernel_size, groups,
            group_channels, reduction_ratio). The network is then unchanged.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(64, 10, 1))
        >>> report = convert_conv_to_involution(network, kernel_size=7)
        >>> list(report.replaced), report.parameters
        (['0'], (19146, 7150))
    """
    for option in ("groups", "group_channels"):
        value = options.get(option)
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1; got {value}")
    if isinstance(kernel_size, Mapping):
        _require_names(kernel_size, [name for name, module in model.named_modules() if _is_spatial(module)])
    report = ConversionReport(model)
    before = _count(model)
    # build all before inserting the first, so that an invalid option leaves the network unchanged
    involutions: dict[nn.Module, nn.Module] = {}
    places: dict[str, nn.Module] = {}
    # a shared convolution becomes one shared involution
    for name, module in model.named_modules(remove_duplicate=False):
        if not _is_spatial(module):
            continue
        reason = _reason_to_leave(name, module, select, options)
        size = None if reason is not None else _size_for(name, module, kernel_size)
        if size is not None and _padding(module, size) is None:
            reason = "its padding has no counterpart for this kernel size"
        if size is None or reason is not None:
            report.skipped[name] = str(reason)
            continue
        if module not in involutions:
            involutions[module] = _involution_for(module, size, options).train(module.training)
        places[name] = involutions[module]
        report.replaced[name] = f"{_describe(module)} -> {_describe(places[name])}"
    for name, involution in places.items():
        report.model = _put(report.model, name, involution)
    report.parameters = (before, _count(report.model))
    return report


def _require_names(sizes: Mapping[str, Any], names: list[str]) -> None:
    for name in sizes:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names) or 'none'}"
            raise ValueError(f"kernel_size: no k×k convolution is called {name!r}; {hint}")


def _is_spatial(module: nn.Module) -> bool:
    # with their lazy and transposed variants
    return isinstance(module, nn.modules.conv._ConvNd) and any(k > 1 for k in module.kernel_size)


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """Return the convolution whose computation a module has, or None: a subclass may compute anything."""
    if isinstance(module, LazyModuleMixin) or parametrize.is_parametrized(module) or "forward" in vars(module):
        return None
    own: Any = type(module)
    for kind in _INVOLUTION:
        same = (getattr(own, name) is getattr(kind, name) for name in ("__call__", "forward", "_conv_forward"))
        if isinstance(module, kind) and all(same):
            return kind
    return None


def _reason_to_leave(name: str, module: Any, select: Callable | None, options: dict[str, Any]) -> str | None:
    if _kind(module) is None:
        return f"{type(module).__name__} has no counterpart"
    if select is not None and not select(name, module):
        return "not selected"
    if module.in_channels < 16:
        return f"only {module.in_channels} input channels to generate kernels from"
    groups = options.get("groups")
    width = min(options.get("group_channels", 16), module.out_channels)
    if module.out_channels % (groups or width):
        return f"{module.out_channels} channels are not divisible into groups"
    return None


def _size_for(name: str, module: Any, kernel_size: Any) -> tuple[int, ...]:
    label = "kernel_size"
    if isinstance(kernel_size, Mapping) or callable(kernel_size):
        label = f"kernel_size of {name!r}"
        kernel_size = kernel_size(name, module) if callable(kernel_size) else kernel_size.get(name)
    return module.kernel_size if kernel_size is None else per_dimension(label, kernel_size, len(module.kernel_size))


def _padding(module: Any, kernel_size: tuple[int, ...]) -> Any:
    # the padding that keeps the output size with another kernel size; None where there is none
    if module.padding == "same":
        return "same"
    padding = (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding
    sides, same = [], []
    for new, k, p, d in zip(kernel_size, module.kernel_size, padding, module.dilation, strict=True):
        reach = d * (new - 1)
        more = reach - d * (k - 1)
        sides.append((p + more // 2, p + more - more // 2))
        same.append((reach // 2, reach - reach // 2))
    if sides == same:
        return "same"
    return tuple(sides) if min(map(min, sides)) >= 0 else None


def _involution_for(module: Any, kernel_size: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    kind = _kind(module)
    assert kind is not None
    return _INVOLUTION[kind](
        module.in_channels,
        kernel_size,
        module.stride,
        _padding(module, kernel_size),
        module.dilation,
        out_channels=module.out_channels,
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device=module.weight.device,
        dtype=module.weight.dtype,
        **options,
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model


def _describe(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not is_lazy(p))
