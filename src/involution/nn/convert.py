"""Replace the convolutions of an existing network by involutions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .involution import Involution1d, Involution2d, Involution3d

_INVOLUTION: dict[type, Any] = {nn.Conv1d: Involution1d, nn.Conv2d: Involution2d, nn.Conv3d: Involution3d}


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
    kernel_size: int | None = None,
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
        kernel_size: Size of the involutions; by default each convolution's own. (RedNet replaces 3×3 by 7×7.)
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
        _at_least_1(option, options.get(option))
    _at_least_1("kernel_size", kernel_size)
    report = ConversionReport(model)
    before = _count(model)
    # build all before inserting the first, so that an invalid option leaves the network unchanged
    involutions: dict[nn.Module, nn.Module] = {}
    places: dict[str, nn.Module] = {}
    # a shared convolution becomes one shared involution
    for name, module in model.named_modules(remove_duplicate=False):
        if not _is_spatial_convolution(module):
            continue
        reason = _reason_to_leave(name, module, kernel_size, select, options)
        if reason is not None:
            report.skipped[name] = reason
            continue
        if module not in involutions:
            involutions[module] = _involution_for(module, kernel_size, options).train(module.training)
        places[name] = involutions[module]
        report.replaced[name] = f"{_describe(module)} -> {_describe(places[name])}"
    for name, involution in places.items():
        report.model = _put(report.model, name, involution)
    report.parameters = (before, _count(report.model))
    return report


def _at_least_1(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


def _is_spatial_convolution(module: nn.Module) -> bool:
    # exact types and their lazy and transposed variants; a subclass may compute anything
    kin = nn.modules.conv._ConvNd
    return isinstance(module, kin) and any(k > 1 for k in module.kernel_size)


def _reason_to_leave(
    name: str, module: Any, kernel_size: int | None, select: Callable | None, options: dict[str, Any]
) -> str | None:
    if type(module) not in _INVOLUTION:
        return f"{type(module).__name__} has no counterpart"
    if select is not None and not select(name, module):
        return "not selected"
    if module.in_channels < 16:
        return f"only {module.in_channels} input channels to generate kernels from"
    groups = options.get("groups")
    width = min(options.get("group_channels", 16), module.out_channels)
    if module.out_channels % (groups or width):
        return f"{module.out_channels} channels are not divisible into groups"
    if _padding(module, kernel_size) is None:
        return "its padding has no counterpart for this kernel size"
    return None


def _padding(module: Any, kernel_size: int | None) -> Any:
    # the padding that keeps the output size with another kernel size; None where there is none
    if module.padding == "same":
        return "same"
    padding = (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding
    sides, same = [], []
    for k, p, d in zip(module.kernel_size, padding, module.dilation, strict=True):
        reach = d * ((kernel_size or k) - 1)
        more = reach - d * (k - 1)
        sides.append((p + more // 2, p + more - more // 2))
        same.append((reach // 2, reach - reach // 2))
    if sides == same:
        return "same"
    return tuple(sides) if min(map(min, sides)) >= 0 else None


def _involution_for(module: Any, kernel_size: int | None, options: dict[str, Any]) -> nn.Module:
    return _INVOLUTION[type(module)](
        module.in_channels,
        module.kernel_size if kernel_size is None else kernel_size,
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
    return sum(p.numel() for p in model.parameters())
