"""The plain PyTorch forms: the oracle of every test, and the kernels that run where there is no faster one.

`loop` is the definition, straight from the formula. The shift-and-accumulate forms go over the K_h·K_w taps and, for
each, add the shifted input times that tap's weights to the output: their extra memory is a small multiple of the
output, never K² times it, forward and backward. `composite` does the same out of place, with differentiable operations.
Half types are accumulated in float32. Every function takes two or three spatial dimensions.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Reads:
    """What one tap reads.

    Attributes:
        tap: Its number in order.
        output: Output positions whose window has this tap inside the input, an index ``[..., *spatial]``.
        input: Where they read, an index of the same size.
    """

    tap: int
    output: tuple
    input: tuple


def reads(
    input_size: Size, kernel_size: Size, output_size: Size, stride: Size, padding: Size, dilation: Size
) -> Iterator[Reads]:
    """Yield what each tap reads inside the input, for taps that read anything.

    Reads outside are zero, and are left out: so memory and time are those of the output, however large the padding.
    """
    taps = [
        [_inside(v, *axis) for v in range(k)]
        for k, *axis in zip(kernel_size, input_size, output_size, stride, padding, dilation, strict=True)
    ]
    for number, axes in enumerate(itertools.product(*taps)):
        inside = [axis for axis in axes if axis is not None]
        if len(inside) == len(axes):
            yield Reads(number, (..., *(output for output, _ in inside)), (..., *(source for _, source in inside)))


def _inside(tap: int, size: int, outputs: int, stride: int, padding: int, dilation: int) -> tuple[slice, slice] | None:
    # of one dimension: output i reads i·s − p + v·d
    offset = tap * dilation - padding
    first = max(0, -(offset // stride))
    end = min(outputs, (size - 1 - offset) // stride + 1)
    if first >= end:
        return None
    return slice(first, end), slice(first * stride + offset, (end - 1) * stride + offset + 1, stride)


def _taps(weight: Tensor) -> tuple[Tensor, ...]:
    # [N, G, *kernel_size, *output spatial] -> one view [N, G, 1, *output spatial] for each tap in order
    dims = (weight.dim() - 2) // 2
    return weight.unsqueeze(2).flatten(3, 2 + dims).unbind(3)


def _grouped(activation: Tensor, groups: int) -> Tensor:
    # [N, C, ...] -> [N, G, C/G, ...], always a view
    return activation.unflatten(1, (groups, activation.shape[1] // groups))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums of values of a dtype are taken: float32 for half types."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _zeros(shape: Size, like: Tensor) -> Tensor:
    # with the memory format and, for half types, the accumulation type that go with the activation `like`
    return torch.empty(
        tuple(shape),
        dtype=accumulation_dtype(like.dtype),
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
    x, y, taps = _grouped(source, groups), _grouped(output, groups), _taps(weight)
    for read in reads(input.shape[2:], kernel_size, output_size, stride, padding, dilation):
        y[read.output].addcmul_(x[read.input], taps[read.tap][read.output])
    return output.to(input.dtype).contiguous(memory_format=output_format(input))


def shift_grad_input(
    grad: Tensor, weight: Tensor, input_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the input ``[N, C, *input_size]`` from ``grad [N, C, *output spatial]``."""
    dims = grad.dim() - 2
    groups, kernel_size = weight.shape[1], weight.shape[2 : 2 + dims]
    source = _working_layout(grad, groups, grad.shape[-1], stride)
    output = _zeros((*grad.shape[:2], *input_size), source)
    x, y, taps = _grouped(output, groups), _grouped(source, groups), _taps(weight)
    for read in reads(input_size, kernel_size, grad.shape[2:], stride, padding, dilation):
        x[read.input].addcmul_(y[read.output], taps[read.tap][read.output])
    return output.to(grad.dtype).contiguous(memory_format=output_format(grad))


def shift_grad_weight(
    grad: Tensor, input: Tensor, groups: int, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the kernel map ``[N, groups, *kernel_size, *output spatial]``."""
    output_size = grad.shape[2:]
    output = _zeros((grad.shape[0], groups * math.prod(kernel_size), *output_size), grad)
    weight = output.unflatten(1, (groups, *kernel_size))
    x = _grouped(_working_layout(input, groups, output_size[-1], stride), groups)
    # one cast of the whole gradient makes every product a float32 one
    y = _grouped(_working_layout(grad.to(output.dtype), groups, output_size[-1], stride), groups)
    product, taps = torch.empty_like(y), _taps(weight)
    for read in reads(input.shape[2:], kernel_size, output_size, stride, padding, dilation):
        part = product[read.output]
        torch.mul(y[read.output], x[read.input], out=part)
        torch.sum(part, dim=2, keepdim=True, out=taps[read.tap][read.output])
    return weight.to(grad.dtype)


def composite(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Apply involution by differentiable operations, out of place; arguments as `loop`.

    For callers that can't use an opaque operator: a torch.func transform inside torch.compile, and functionalize.
    """
    dims = input.dim() - 2
    kernel_size, output_size = weight.shape[2 : 2 + dims], weight.shape[2 + dims :]
    dtype = accumulation_dtype(input.dtype)
    x, taps = _grouped(input.to(dtype), weight.shape[1]), _taps(weight.to(dtype))
    # of the right size and with derivatives even where no tap reads anything
    output = x.new_zeros((*x.shape[:3], *output_size)) + x[..., :0].sum() + weight[..., :0].sum()
    for read in reads(input.shape[2:], kernel_size, output_size, stride, padding, dilation):
        part = x[read.input] * taps[read.tap][read.output]
        pads: list[int] = []
        for inside, size in zip(read.output[1:], output_size, strict=True):
            pads = [inside.start, size - inside.stop, *pads]
        output = output + F.pad(part, pads)
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
