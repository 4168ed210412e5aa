"""The plain PyTorch forms: the oracle of every test, and the kernels that run where there is no faster one.

`loop` is the definition, straight from the formula. The shift-and-accumulate forms go over the K_h·K_w taps and, for
each, add the shifted input times that tap's weights to the output: their extra memory is a small multiple of the
output, never K² times it, forward and backward. `composite` does the same out of place, with differentiable operations.
Half types are accumulated in float32. Every function takes two or three spatial dimensions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .schema import output_format

Size = Sequence[int]


def loop(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Compute involution literally, one multiply-add at a time over ``[C]``-long columns. Slow; for tests.

    ``out[n, c, i, j] = Σ_{u,v} w[n, c // (C/G), u, v, i, j] · x[n, c, i·s − p + u·d, j·s − p + v·d]``, zero outside
    the input (arXiv 2103.06255, section 3).

    Args:
        input: ``[N, C, *spatial]``.
        weight: ``[N, G, *kernel_size, *output spatial]``.
        stride: one per spatial dimension, like padding (leading) and dilation.
        padding: leading padding.
        dilation: distance between taps.

    Returns:
        ``[N, C, *output spatial]``.
    """
    dims = input.dim() - 2
    channels_of_group = input.shape[1] // weight.shape[1]
    kernel_size, output_size = weight.shape[2 : 2 + dims], weight.shape[2 + dims :]
    output = input.new_zeros(*input.shape[:2], *output_size)
    for position in itertools.product(*[range(size) for size in output_size]):
        for tap in itertools.product(*[range(size) for size in kernel_size]):
            source = [i * s - p + u * d for i, s, p, u, d in zip(position, stride, padding, tap, dilation, strict=True)]
            if all(0 <= q < size for q, size in zip(source, input.shape[2:], strict=True)):
                taps = _pick(weight, *tap, *position).repeat_interleave(channels_of_group, dim=1)
                _pick(output, *position).add_(taps * _pick(input, *source))
    return output


def _pick(tensor: Tensor, *index: int) -> Tensor:
    # the entry [N, C] at a position of the other dimensions
    for i in index:
        tensor = tensor.select(2, i)
    return tensor


def padding_to_fit(
    input_size: Size, kernel_size: Size, output_size: Size, stride: Size, padding: Size, dilation: Size
) -> list[tuple[int, int]]:
    """Return (leading, trailing) padding per dimension after which the windows cover the input exactly.

    Negative numbers crop what no window reads. Everything is Python integers, so no size is too large.
    """
    return [
        (p, (y - 1) * s + (k - 1) * d + 1 - p - x)
        for x, k, y, s, p, d in zip(input_size, kernel_size, output_size, stride, padding, dilation, strict=True)
    ]


def _pad_argument(pads: list[tuple[int, int]]) -> list[int]:
    # torch.nn.functional.pad counts from the last dimension
    return [side for pair in reversed(pads) for side in pair]


def _windows(padded: Tensor, kernel_size: Size, stride: Size, dilation: Size) -> list[Tensor]:
    # one view [..., *output spatial] for each tap in order; the windows must fit exactly, see `padding_to_fit`
    dims = len(kernel_size)
    windows = padded
    for k, s, d in zip(kernel_size, stride, dilation, strict=True):
        windows = windows.unfold(-dims, (k - 1) * d + 1, s)[..., ::d]
    views = [windows]
    for i in range(dims):
        views = [view for window in views for view in window.unbind(i - dims)]
    return views


def _taps(weight: Tensor) -> tuple[Tensor, ...]:
    # [N, G, *kernel_size, *output spatial] -> one view [N, G, 1, *output spatial] for each tap in order
    dims = (weight.dim() - 2) // 2
    return weight.unsqueeze(2).flatten(3, 2 + dims).unbind(3)


def _grouped(activation: Tensor, groups: int) -> Tensor:
    # [N, C, ...] -> [N, G, C/G, ...], always a view
    return activation.unflatten(1, (groups, activation.shape[1] // groups))


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _zeros(shape: Size, like: Tensor) -> Tensor:
    # with the memory format and, for half types, the accumulation type that go with the activation `like`
    return torch.empty(
        tuple(shape),
        dtype=_accumulation_dtype(like.dtype),
        device=like.device,
        memory_format=output_format(like),
    ).zero_()


def _working_layout(activation: Tensor, groups: int, row: int, stride: Size) -> Tensor:
    # inner loops over short or strided rows cost 2 to 4 times those over the channels of a group (measured, CPU)
    if activation.dim() == 4 and activation.shape[1] >= 16 * groups and (row < 16 or stride[-1] > 1):
        return activation.contiguous(memory_format=torch.channels_last)
    return activation


def shift_forward(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Apply involution by shift-and-accumulate; arguments as `loop`."""
    dims = input.dim() - 2
    groups, kernel_size, output_size = weight.shape[1], weight.shape[2 : 2 + dims], weight.shape[2 + dims :]
    source = _working_layout(input, groups, output_size[-1], stride)
    output = _zeros((*input.shape[:2], *output_size), source)
    if output.numel():
        pads = padding_to_fit(input.shape[2:], kernel_size, output_size, stride, padding, dilation)
        x = _grouped(F.pad(source, _pad_argument(pads)), groups)
        y = _grouped(output, groups)
        for window, taps in zip(_windows(x, kernel_size, stride, dilation), _taps(weight), strict=True):
            y.addcmul_(window, taps)
    return output.to(input.dtype).contiguous(memory_format=output_format(input))


def shift_grad_input(
    grad: Tensor, weight: Tensor, input_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the input ``[N, C, *input_size]`` from ``grad [N, C, *output spatial]``."""
    dims = grad.dim() - 2
    groups, kernel_size = weight.shape[1], weight.shape[2 : 2 + dims]
    if not grad.numel():
        return _zeros((*grad.shape[:2], *input_size), grad).to(grad.dtype)
    pads = padding_to_fit(input_size, kernel_size, grad.shape[2:], stride, padding, dilation)
    padded_size = [a + x + b for (a, b), x in zip(pads, input_size, strict=True)]
    source = _working_layout(grad, groups, grad.shape[-1], stride)
    padded = _zeros((*grad.shape[:2], *padded_size), source)
    windows = _windows(_grouped(padded, groups), kernel_size, stride, dilation)
    y = _grouped(source, groups)
    for window, taps in zip(windows, _taps(weight), strict=True):
        window.addcmul_(y, taps)
    unpad = [-side for side in _pad_argument(pads)]
    return F.pad(padded.to(grad.dtype), unpad).contiguous(memory_format=output_format(grad))


def shift_grad_weight(
    grad: Tensor, input: Tensor, groups: int, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the kernel map ``[N, groups, *kernel_size, *output spatial]``."""
    output_size = grad.shape[2:]
    output = _zeros((grad.shape[0], groups * math.prod(kernel_size), *output_size), grad)
    weight = output.unflatten(1, (groups, *kernel_size))
    if grad.numel():
        pads = padding_to_fit(input.shape[2:], kernel_size, output_size, stride, padding, dilation)
        source = _working_layout(input, groups, output_size[-1], stride)
        x = _grouped(F.pad(source, _pad_argument(pads)), groups)
        # one cast of the whole gradient makes every product a float32 one
        y = _grouped(_working_layout(grad.to(output.dtype), groups, output_size[-1], stride), groups)
        product = torch.empty_like(y)
        for window, taps in zip(_windows(x, kernel_size, stride, dilation), _taps(weight), strict=True):
            torch.mul(y, window, out=product)
            torch.sum(product, dim=2, keepdim=True, out=taps)
    return weight.to(grad.dtype)


def composite(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Apply involution by differentiable operations, out of place; arguments as `loop`.

    For callers that can't use an opaque operator: a torch.func transform inside torch.compile, and functionalize.
    """
    dims = input.dim() - 2
    kernel_size, output_size = weight.shape[2 : 2 + dims], weight.shape[2 + dims :]
    dtype = _accumulation_dtype(input.dtype)
    pads = padding_to_fit(input.shape[2:], kernel_size, output_size, stride, padding, dilation)
    x = _grouped(F.pad(input.to(dtype), _pad_argument(pads)), weight.shape[1])
    output = x.new_zeros(())
    positions = itertools.product(*map(range, kernel_size))
    for position, taps in zip(positions, _taps(weight.to(dtype)), strict=True):
        # slices: the derivative of `Tensor.unfold` has no batching rule
        window: Any = [
            slice(u * d, u * d + (y - 1) * s + 1, s)
            for u, d, y, s in zip(position, dilation, output_size, stride, strict=True)
        ]
        output = output + x[(..., *window)] * taps
    return output.flatten(1, 2).to(input.dtype)


def span(reduced: Tensor, span_weight: Tensor, span_bias: Tensor | None) -> Tensor:
    """Generate the kernel map ``[N, G, K_h, K_w, H_o, W_o]`` from reduced features ``[N, R, H_o, W_o]``.

    A 1×1 convolution by ``span_weight [G, K_h, K_w, R]`` and ``span_bias [G, K_h, K_w]``; in the map's channels the tap
    is innermost, ``(g·K_h + u)·K_w + v``. Differentiable.
    """
    bias = None if span_bias is None else span_bias.flatten()
    return pointwise(reduced, span_weight.flatten(0, 2), bias).unflatten(1, span_weight.shape[:3])


def pointwise(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a 1×1 convolution ``weight [outputs, inputs]`` to ``features [N, inputs, H, W]``, empty ones as well."""
    if features.numel() == 0:
        # convolutions refuse inputs without pixels
        output = torch.einsum("oi,nihw->nohw", weight, features)
        return output if bias is None else output + bias[:, None, None]
    return F.conv2d(features, weight[:, :, None, None], bias)
