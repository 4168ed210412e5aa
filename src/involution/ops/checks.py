"""Every rule about the operators' arguments, with its message."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from .backends import DTYPES

IntOrTuple = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[int | Sequence[int]] | Literal["same"]

_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
_NAMES = {dims: f"involution{dims}d" for dims in _AXES}
_IMAGE_AXES = {dims: ("N", "C", *axes) for dims, axes in _AXES.items()}
_MAP_AXES = {
    dims: ("N", "G", *(f"K_{a.lower()}" for a in axes), *(f"{a}_o" for a in axes)) for dims, axes in _AXES.items()
}
# far beyond any image, and small enough for every product of two
_LIMIT = 2**31


def per_dimension(name: str, value: IntOrTuple, dims: int, minimum: int = 1) -> tuple[int, ...]:
    """Return an int or a sequence of `dims` ints as a tuple; NumPy's count as Python's.

    Raises:
        TypeError: If it is neither.
        ValueError: If it has the wrong length, or a number is below `minimum` or not below 2³¹.
    """
    # the common case first: a small call spends most of its time on checks
    if type(value) is int and minimum <= value < _LIMIT:
        return (value,) * dims
    values: Any = _python(value)
    values = (values,) * dims if _is_int(values) else values
    if not _is_sequence(values) or not all(map(_is_int, values)):
        raise TypeError(f"{name} must be an int or a tuple of {dims} ints; got {value!r}")
    if len(values) != dims:
        raise ValueError(f"{name} must be an int or a tuple of {dims} ints; got {len(values)} of them: {value!r}")
    if _concrete():
        if min(values) < minimum:
            raise ValueError(f"{name} must be at least {minimum}; got {value!r}")
        if max(values) >= _LIMIT:
            raise ValueError(f"{name} must be below 2**31; got {value!r}")
    return tuple(values)


def per_side(padding: Padding, dims: int, kernel_size: Sequence[int], dilation: Sequence[int]) -> Any:
    """Return a tuple of (leading, trailing) padding per dimension, or for ``"same"`` of (leading, None).

    It accepts an int; a sequence of `dims` items, each an int or a (leading, trailing) pair; in one dimension also a
    flat (left, right) pair; and ``"same"``, for which the leading side gets ``dilation·(kernel_size − 1) // 2`` and
    the trailing side whatever gives ``ceil(size / stride)`` outputs.
    """
    if type(padding) is int and 0 <= padding < _LIMIT:
        return ((padding, padding),) * dims
    if isinstance(padding, str) and padding == "same":
        return tuple((d * (k - 1) // 2, None) for k, d in zip(kernel_size, dilation, strict=True))
    items: Any = _python(padding)
    items = (items,) * dims if _is_int(items) else items
    if _is_sequence(items):
        if dims == 1 and len(items) == 2 and all(map(_is_int, items)):
            items = (items,)
        if len(items) == dims:
            sides: Any = tuple((p, p) if _is_int(p) else p for p in items)
            if all(_is_sequence(pair) and len(pair) == 2 and all(map(_is_int, pair)) for pair in sides):
                if _concrete():
                    if min(map(min, sides)) < 0:
                        raise ValueError(f"padding must not be negative; got {padding!r}")
                    if max(map(max, sides)) >= _LIMIT:
                        raise ValueError(f"padding must be below 2**31; got {padding!r}")
                return tuple((a, b) for a, b in sides)
    flat = ", a (left, right) pair" if dims == 1 else ""
    raise (ValueError if _is_sequence(items) else TypeError)(
        f'padding must be an int{flat}, a tuple of {dims} items, each an int or a (leading, trailing) pair, or "same";'
        f" got {padding!r}"
    )


def output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int | None]],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Return the output's spatial size, with `padding` as `per_side` returns it.

    Raises:
        ValueError: If the window is larger than the padded input.
    """
    size = tuple(
        -(-x // s) if trailing is None else (x + leading + trailing - d * (k - 1) - 1) // s + 1
        for x, k, s, (leading, trailing), d in zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    )
    # with "same", only an empty input has an empty output
    if _concrete() and any(y < 1 and trailing is not None for y, (_, trailing) in zip(size, padding, strict=True)):
        raise ValueError(
            f"the window {_extent(kernel_size, dilation)} does not fit into an input of {tuple(input_size)} with"
            f" (leading, trailing) padding {tuple(padding)}; make the padding larger or the kernel smaller"
        )
    return size


def involution_arguments(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Check the arguments of ``involution{dims}d``.

    Returns:
        stride, leading padding and dilation, a tuple of `dims` ints each.
    """
    name = _NAMES[dims]
    _tensor(name, "input", input, _IMAGE_AXES[dims])
    _tensor(name, "weight", weight, _MAP_AXES[dims])
    _alike(name, input, weight=weight, bias=bias)
    channels = None if bias is None else bias.shape
    remember = _is_plain((stride, padding, dilation)) and _have_numbers(input, weight)
    return (_remembered_geometry if remember else _geometry)(
        dims, input.shape, weight.shape, channels, stride, padding, dilation
    )


def _geometry(
    dims: int,
    input: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Check sizes and geometry; tensors are given as their shapes."""
    name, map_axes = _NAMES[dims], _MAP_AXES[dims]
    stride = per_dimension("stride", stride, dims)
    dilation = per_dimension("dilation", dilation, dims)
    kernel_size, map_size = weight[2 : 2 + dims], weight[2 + dims :]
    sides = per_side(padding, dims, kernel_size, dilation)
    # comparing a symbolic size would narrow the sizes that the exported program accepts
    if _concrete():
        batch, channels = input[:2]
        groups = weight[1]
        if groups == 0 or channels % groups:
            raise ValueError(
                f"{name}: weight's groups must divide input's channels; got input {list(input)} with"
                f" C = {channels} and weight {list(weight)} with G = {groups}"
            )
        if min(kernel_size) == 0:
            raise ValueError(f"{name}: the kernel needs at least one tap; got weight {list(weight)}")
        wanted = output_size(input[2:], kernel_size, stride, sides, dilation)
        if weight[0] != batch or tuple(map_size) != wanted:
            numbers = [batch, groups, *kernel_size, *wanted]
            raise ValueError(
                f"{name}: weight must be [{', '.join(map_axes)}] = {numbers} for input {list(input)},"
                f" stride {stride}, padding {padding!r} and dilation {dilation}; got {list(weight)}."
                " Generate one kernel for each output position"
            )
        if bias is not None and tuple(bias) != (channels,):
            raise ValueError(f"{name}: bias must be [C] = [{channels}]; got {list(bias)}")
    return stride, tuple(leading for leading, _ in sides), dilation


def dynamic_arguments(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Check the arguments of ``dynamic_involution2d``; returns stride, leading padding and dilation."""
    name = "dynamic_involution2d"
    _tensor(name, "input", input, ["N", "C", "H", "W"])
    _tensor(name, "reduced", reduced, ["N", "R", "H_o", "W_o"])
    _tensor(name, "span_weight", span_weight, ["G", "K_h", "K_w", "R"])
    _alike(name, input, reduced=reduced, span_weight=span_weight, span_bias=span_bias, scale=scale, shift=shift)
    for argument, value in (("scale", scale), ("shift", shift)):
        if value is not None and value.shape != input.shape[1:2]:
            raise ValueError(f"{name}: {argument} must be [C] = [{input.shape[1]}]; got {list(value.shape)}")
    bias = None if span_bias is None else span_bias.shape
    remember = _is_plain((stride, padding, dilation)) and _have_numbers(input, reduced)
    return (_remembered_dynamic_geometry if remember else _dynamic_geometry)(
        input.shape, reduced.shape, span_weight.shape, bias, stride, padding, dilation
    )


def _dynamic_geometry(
    input: Sequence[int],
    reduced: Sequence[int],
    span_weight: Sequence[int],
    span_bias: Sequence[int] | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Check sizes and geometry; tensors are given as their shapes."""
    name = "dynamic_involution2d"
    stride = per_dimension("stride", stride, 2)
    dilation = per_dimension("dilation", dilation, 2)
    groups, *kernel_size, features = span_weight
    sides = per_side(padding, 2, kernel_size, dilation)
    if _concrete():
        batch, channels = input[:2]
        if min(span_weight) == 0 or channels % groups:
            raise ValueError(
                f"{name}: span_weight must be [G, K_h, K_w, R], none of them 0 and G a divisor of C = {channels};"
                f" got {list(span_weight)}"
            )
        wanted = output_size(input[2:], kernel_size, stride, sides, dilation)
        if tuple(reduced) != (batch, features, *wanted):
            raise ValueError(
                f"{name}: reduced must be [N, R, H_o, W_o] = {[batch, features, *wanted]} for input"
                f" {list(input)}, span_weight {list(span_weight)}, stride {stride}, padding {padding!r}"
                f" and dilation {dilation}; got {list(reduced)}"
            )
        if span_bias is not None and span_bias != span_weight[:3]:
            raise ValueError(
                f"{name}: span_bias must be [G, K_h, K_w] = {list(span_weight[:3])}; got {list(span_bias)}"
            )
    return stride, tuple(leading for leading, _ in sides), dilation


# a small call spends most of its time on checks: sizes that have passed once pass again
_remembered_geometry = lru_cache(maxsize=1024)(_geometry)
_remembered_dynamic_geometry = lru_cache(maxsize=1024)(_dynamic_geometry)


def _is_plain(value: object) -> bool:
    """Return whether a value has Python's ints, strings and tuples alone, not another type that compares equal."""
    kind = type(value)
    return kind is int or kind is str or (kind is tuple and all(map(_is_plain, value)))  # type: ignore[call-overload]


def _have_numbers(*tensors: Tensor) -> bool:
    """Return whether the sizes of tensors are plain ints: not symbolic and not traced."""
    if torch.compiler.is_compiling() or not _concrete():
        return False
    return all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)


def _python(value: Any) -> Any:
    """Return NumPy's numbers and arrays, and tensors of one integer, as Python's; anything else as it is."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point() and value.dtype != torch.bool:
        return int(value)
    return type(value)(map(_python, value)) if type(value) in (tuple, list) else value


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def is_whole(value: object) -> bool:
    """Return whether torch takes a value for a whole number: NumPy's, too, and no bool."""
    return _is_int(_python(value))


def _is_int(value: object) -> bool:
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def is_exporting() -> bool:
    """Return whether torch.export is at work."""
    # within torch.compile, `torch.compiler.is_exporting` says so by mistake in torch 2.11
    return torch.compiler._is_exporting_flag


def _concrete() -> bool:
    # sizes recorded by a tracer can't be compared
    return not is_exporting() and not torch.jit.is_tracing()


def _extent(kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))


def _tensor(name: str, argument: str, value: object, axes: Sequence[str]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {argument} must be a tensor [{', '.join(axes)}]; got {type(value).__name__}")
    _strided(name, argument, value)
    if value.dim() != len(axes):
        raise ValueError(
            f"{name}: {argument} must have {len(axes)} dimensions [{', '.join(axes)}]; got {list(value.shape)}"
        )
    if value.dtype not in DTYPES:
        raise TypeError(
            f"{name}: {argument} must be float16, bfloat16, float32 or float64; got {value.dtype}. Convert it first"
        )


def _strided(name: str, argument: str, value: Tensor) -> None:
    if value.layout is not torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.").removeprefix("_")
        raise TypeError(f"{name}: {argument} must be a dense, strided tensor; got a {kind} one. Convert it first")


def _alike(name: str, input: Tensor, **others: Tensor | None) -> None:
    for argument, value in others.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: {argument} must be a tensor or None; got {type(value).__name__}")
        _strided(name, argument, value)
        if value.device != input.device:
            raise ValueError(
                f"{name}: input and {argument} must be on one device; got {input.device} and {value.device}"
            )
        # inside autocast mixed types are normal, and the operator casts them
        if value.dtype != input.dtype and not (value.dtype in DTYPES and torch.is_autocast_enabled(input.device.type)):
            raise TypeError(
                f"{name}: input and {argument} must have one dtype; got {input.dtype} and {value.dtype}."
                " Convert one of them, or use torch.autocast"
            )
