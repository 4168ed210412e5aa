"""The fused operator: generates the kernel map from reduced features and applies it in one call.

Only the input, the reduced features and, where a ReLU follows, the output are saved for backward, which computes the
map again. The plain form here holds the map while it runs; a native kernel need not.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKeySet

from . import reference
from .autograd import (
    call,
    in_forward_mode,
    is_short,
    needs_derivative,
    redispatch_below_autograd,
    register_autocast,
)
from .schema import LIBRARY, output_format

Size = Sequence[int]

_OP = torch.ops.involution.dynamic_involution2d.default
_AFFINE = torch.ops.involution.dynamic_involution2d_affine.default
_BACKWARD = torch.ops.involution.dynamic_involution2d_backward.default


def dynamic_call(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
) -> Tensor:
    """Call the fused operator so that every PyTorch transform sees its derivatives."""
    if torch._C._are_functorch_transforms_active():
        return plain(input, reduced, span_weight, span_bias, stride, padding, dilation)
    operands, geometry = (input, reduced, span_weight, span_bias), (stride, padding, dilation)
    if not is_short(*operands):
        return _OP(*operands, *geometry)
    if needs_derivative(*operands):
        return _Dynamic.apply(None, *operands, *geometry)
    return redispatch_below_autograd(_OP, None, *operands, *geometry)


def affine_call(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    """Call the fused operator with the epilogue that follows it in inference: ``relu(scale[c] · out + shift[c])``."""
    operands, epilogue = (input, reduced, span_weight, span_bias), (scale, shift, relu)
    args = (*operands, stride, padding, dilation, *epilogue)
    if torch._C._are_functorch_transforms_active():
        return _composed(*args)
    if not is_short(*operands, scale, shift) or needs_derivative(*operands, scale, shift):
        return _AFFINE(*args)
    return redispatch_below_autograd(_AFFINE, None, *args)


def affine(out: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool) -> Tensor:
    """Return ``relu(scale[c] · out + shift[c])`` of ``out [N, C, ...]``."""
    scale, shift = (p if p is None else p.to(out.dtype).view(-1, *[1] * (out.dim() - 2)) for p in (scale, shift))
    if scale is not None and shift is not None:
        # half types are rounded once
        out = torch.addcmul(shift, out, scale)
    elif scale is not None:
        out = out * scale
    elif shift is not None:
        out = out + shift
    return out.relu() if relu else out


def _composed(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    out = dynamic_call(input, reduced, span_weight, span_bias, stride, padding, dilation)
    return affine(out, scale, shift, relu)


def plain_affine(input: Tensor, *args: Any) -> Tensor:
    """Apply involution, then the epilogue: the plain form of ``dynamic_involution2d_affine``."""
    return _composed(input, *args).contiguous(memory_format=output_format(input))


def _fake_affine(input: Tensor, reduced: Tensor, *args: Any) -> Tensor:
    return _fake(input, reduced)


def plain(input: Tensor, reduced: Tensor, span_weight: Tensor, span_bias: Tensor | None, *geometry: Size) -> Tensor:
    """Generate the map, then apply it: the plain form of ``dynamic_involution2d``. Differentiable."""
    return call("", input, reference.span(reduced, span_weight, span_bias), *geometry)


def _gradients(
    grad: Tensor,
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # differentiable; a gradient that was not requested is an empty tensor
    geometry = (stride, padding, dilation)
    groups, *kernel_size = span_weight.shape[:3]
    # one empty tensor each: outputs of an operator must not alias
    grad_input, grad_reduced, grad_span, grad_bias = (grad.new_empty(0) for _ in range(4))
    if output_mask[0]:
        weight = reference.span(reduced, span_weight, span_bias)
        grad_input = call("_grad_input", grad, weight, input.shape[2:], *geometry)
    if any(output_mask[1:]):
        grad_weight = call("_grad_weight", grad, input, groups, kernel_size, *geometry).flatten(1, 3)
        if output_mask[1]:
            grad_reduced = reference.pointwise(grad_weight, span_weight.flatten(0, 2).t())
        if output_mask[2]:
            products = torch.einsum("nkp,nrp->kr", grad_weight.flatten(2), reduced.flatten(2))
            grad_span = products.unflatten(0, span_weight.shape[:3])
        if output_mask[3]:
            grad_bias = grad_weight.sum((0, 2, 3)).unflatten(0, span_weight.shape[:3])
    return grad_input, grad_reduced, grad_span, grad_bias


def _backward(*args: Any) -> tuple[Tensor, ...]:
    if torch._C._are_functorch_transforms_active():
        return _gradients(*args)
    tensors = args[:5]
    if not is_short(*tensors) or needs_derivative(*tensors):
        return _BACKWARD(*args)
    found: tuple[Tensor, ...] = redispatch_below_autograd(_BACKWARD, None, *args)
    return found


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keyset: DispatchKeySet | None,
        input: Tensor,
        reduced: Tensor,
        span_weight: Tensor,
        span_bias: Tensor | None,
        *geometry: Size,
    ) -> Tensor:
        ctx.save_for_backward(input, reduced, span_weight, span_bias)
        ctx.save_for_forward(input, reduced, span_weight, span_bias)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return redispatch_below_autograd(_OP, keyset, input, reduced, span_weight, span_bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        needed = list(ctx.needs_input_grad[1:5])
        grads: tuple = (None,) * 4
        if grad is not None:
            grads = _backward(grad, *ctx.saved_tensors, *ctx.geometry, needed)
        return None, *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None, None

    @staticmethod
    def jvp(ctx: Any, _keyset: None, *tangents: Tensor | None) -> Tensor | None:
        # linear in each of input, reduced features and (span weight, span bias) together
        input_t, reduced_t, weight_t, bias_t = tangents[:4]
        input, reduced, weight, bias = ctx.saved_tensors
        terms = []
        if input_t is not None:
            terms.append(dynamic_call(input_t, reduced, weight, bias, *ctx.geometry))
        if reduced_t is not None:
            terms.append(dynamic_call(input, reduced_t, weight, None, *ctx.geometry))
        if weight_t is not None or bias_t is not None:
            direction = torch.zeros_like(weight) if weight_t is None else weight_t
            terms.append(dynamic_call(input, reduced, direction, bias_t, *ctx.geometry))
        return sum(terms[1:], terms[0]) if terms else None


class _Affine(torch.autograd.Function):
    # without jvp: in forward mode the operations are separate

    @staticmethod
    def forward(
        ctx: Any,
        keyset: DispatchKeySet,
        input: Tensor,
        reduced: Tensor,
        span_weight: Tensor,
        span_bias: Tensor | None,
        stride: Size,
        padding: Size,
        dilation: Size,
        scale: Tensor | None,
        shift: Tensor | None,
        relu: bool,
    ) -> Tensor:
        operands, geometry = (input, reduced, span_weight, span_bias), (stride, padding, dilation)
        out = redispatch_below_autograd(_AFFINE, keyset, *operands, *geometry, scale, shift, relu)
        ctx.save_for_backward(*operands, scale, out if relu else None)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        *operands, scale, out = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[1:5])
        of_scale, of_shift = ctx.needs_input_grad[8:10]
        grads: list[Tensor | None] = [None] * 4
        grad_scale = grad_shift = None
        if grad is not None:
            if out is not None:
                grad = torch.ops.aten.threshold_backward(grad, out, 0)
            if of_shift:
                grad_shift = grad.sum((0, 2, 3))
            if scale is not None and (needed[0] or of_scale):
                # The scale multiplies after the sum, not its terms, which half types would round. And as the output is
                # linear in the input, Σ grad · out = Σ unscaled · input: the output before the scale need not be kept.
                unscaled = _backward(grad, *operands, *ctx.geometry, [True, False, False, False])[0]
                grads[0] = unscaled * scale[:, None, None] if needed[0] else None
                if of_scale:
                    products = unscaled.to(reference.accumulation_dtype(grad.dtype)) * operands[0]
                    grad_scale = products.sum((0, 2, 3)).to(grad.dtype)
            rest = needed if scale is None else [False, *needed[1:]]
            if any(rest):
                scaled = grad if scale is None else grad * scale[:, None, None]
                found = _backward(scaled, *operands, *ctx.geometry, rest)
                grads = [g if need else before for g, need, before in zip(found, rest, grads, strict=True)]
        return None, *grads, None, None, None, grad_scale, grad_shift, None


def _affine_autograd_kernel(keyset: DispatchKeySet, *args: Any) -> Tensor:
    if in_forward_mode():
        return _composed(*args)
    if needs_derivative(*(a for a in args if isinstance(a, Tensor))):
        return _Affine.apply(keyset, *args)
    return redispatch_below_autograd(_AFFINE, keyset, *args)


def _autograd_kernel(keyset: DispatchKeySet, *args: Any) -> Tensor:
    if needs_derivative(*(a for a in args if isinstance(a, Tensor))):
        return _Dynamic.apply(keyset, *args)
    return redispatch_below_autograd(_OP, keyset, *args)


def _backward_autograd_kernel(keyset: DispatchKeySet, *args: Any) -> tuple[Tensor, ...]:
    # derivatives of the backward pass go through the unfused operators
    if needs_derivative(*(a for a in args if isinstance(a, Tensor))):
        return _gradients(*args)
    return redispatch_below_autograd(_BACKWARD, keyset, *args)


def _fake(input: Tensor, reduced: Tensor, *args: Any) -> Tensor:
    size = (*input.shape[:2], *reduced.shape[2:])
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=output_format(input))


def _fake_backward(
    grad: Tensor,
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    def like(tensor: Tensor, needed: bool) -> Tensor:
        memory_format = output_format(grad) if tensor.dim() == 4 else torch.contiguous_format
        if not needed:
            return grad.new_empty(0)
        return torch.empty(tensor.shape, dtype=grad.dtype, device=grad.device, memory_format=memory_format)

    bias_shape = span_weight[..., 0]
    return (
        like(input, output_mask[0]),
        like(reduced, output_mask[1]),
        span_weight.new_empty(span_weight.shape) if output_mask[2] else grad.new_empty(0),
        bias_shape.new_empty(bias_shape.shape) if output_mask[3] else grad.new_empty(0),
    )


def plain_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Compute the gradients by the unfused operators: the plain form of ``dynamic_involution2d_backward``."""
    # in the memory formats promised by the fake kernel
    wanted = (output_format(grad),) * 2 + (torch.contiguous_format,) * 2
    return tuple(
        g if g.numel() == 0 else g.contiguous(memory_format=f)
        for g, f in zip(_gradients(grad, *args), wanted, strict=True)
    )


def _vmap_rule(op: torch._ops.OpOverload) -> Any:
    # one call per sample, because a single call can't have different span weights for different samples
    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        def sample(i: int) -> Any:
            chosen = zip(args, in_dims, strict=True)
            return op(*(a.select(dim, i) if isinstance(dim, int) else a for a, dim in chosen))

        outputs = [sample(i) for i in range(info.batch_size)]
        if isinstance(outputs[0], Tensor):
            return torch.stack(outputs), 0
        return tuple(map(torch.stack, zip(*outputs, strict=True))), (0,) * len(outputs[0])

    return rule


LIBRARY.impl(_OP, _autograd_kernel, "Autograd", with_keyset=True)
torch.library.register_fake(_OP, _fake, lib=LIBRARY)
torch.library.register_vmap(_OP, _vmap_rule(_OP), lib=LIBRARY)
register_autocast(_OP)

LIBRARY.impl(_AFFINE, _affine_autograd_kernel, "Autograd", with_keyset=True)
torch.library.register_fake(_AFFINE, _fake_affine, lib=LIBRARY)
torch.library.register_vmap(_AFFINE, _vmap_rule(_AFFINE), lib=LIBRARY)
register_autocast(_AFFINE)

LIBRARY.impl(_BACKWARD, _backward_autograd_kernel, "Autograd", with_keyset=True)
torch.library.register_fake(_BACKWARD, _fake_backward, lib=LIBRARY)
torch.library.register_vmap(_BACKWARD, _vmap_rule(_BACKWARD), lib=LIBRARY)
