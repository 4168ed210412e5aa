"""What the bilinear operators need besides kernels: derivatives, fake kernels, autocast and vmap.

Each of the three operators of a dimension is linear in both of its tensors, and their derivatives are the same three
operators again. With ``F`` the forward, ``I`` the gradient of the input and ``W`` that of the map::

    F(x, w):  x̄ = I(ȳ, w)   w̄ = W(ȳ, x)
    I(y, w):  ȳ = F(x̄, w)   w̄ = W(y, x̄)
    W(y, x):  ȳ = F(x, w̄)   x̄ = I(y, w̄)

which gives derivatives of any order and mode. They are registered on the ``Autograd`` dispatch key, because
`torch.library.register_autograd` has no jvp and silently returns zero tangents. Under a torch.func transform
`call` applies a `torch.autograd.Function` above the dispatcher, where functorch sees its jvp and vmap rules.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.autograd import forward_ad

from . import reference
from .schema import LIBRARY, output_format

Size = Sequence[int]

_FORWARD, _GRAD_INPUT, _GRAD_WEIGHT = "", "_grad_input", "_grad_weight"
_AUTOCAST_DEVICES = ("CPU", "CUDA", "XPU", "MPS")

_OPERATORS = {
    (kind, dims): getattr(torch.ops.involution, f"involution{dims}d{kind}").default
    for kind in (_FORWARD, _GRAD_INPUT, _GRAD_WEIGHT)
    for dims in (2, 3)
}


def operator(kind: str, dims: int) -> torch._ops.OpOverload:
    """Return the dispatcher's operator of a kind (``""``, ``"_grad_input"``, ``"_grad_weight"``)."""
    return _OPERATORS[kind, dims]


def call(kind: str, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """Call an operator so that every PyTorch transform sees its derivatives.

    Args:
        kind: ``""``, ``"_grad_input"`` or ``"_grad_weight"``.
        a: first tensor of the schema.
        b: second tensor of the schema.
        *rest: the schema's other arguments, ending with stride, padding, dilation.
    """
    if torch._C._are_functorch_transforms_active():
        if kind == _FORWARD:
            a, b = cast_for_autocast(a, b)
            # dynamo refuses a custom jvp, torch.func.functionalize any custom function
            if torch.compiler.is_compiling() or _functionalizing():
                return reference.composite(a, b, *rest)
        return _Bilinear.apply(None, kind, a, b, *rest)
    op = operator(kind, len(rest[-1]))
    if is_short(a, b):
        if needs_derivative(a, b):
            return _Dispatched.apply(None, kind, a, b, *rest)
        return redispatch_below_autograd(op, None, a, b, *rest)
    return op(a, b, *rest)


def _functionalizing() -> bool:
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Functionalize for level in stack)


def _vjp(kind: str, grad: Tensor, a: Tensor, b: Tensor, rest: tuple, needed: Sequence[bool]) -> list:
    geometry = rest[-3:]
    dims = len(geometry[-1])

    def map_sizes(weight: Tensor) -> tuple[int, Size]:
        return weight.shape[1], weight.shape[2 : 2 + dims]

    grad_a = grad_b = None
    if kind == _FORWARD:  # a = input, b = weight
        if needed[0]:
            grad_a = call(_GRAD_INPUT, grad, b, a.shape[2:], *geometry)
        if needed[1]:
            grad_b = call(_GRAD_WEIGHT, grad, a, *map_sizes(b), *geometry)
    elif kind == _GRAD_INPUT:  # a = output's gradient, b = weight
        if needed[0]:
            grad_a = call(_FORWARD, grad, b, *geometry)
        if needed[1]:
            grad_b = call(_GRAD_WEIGHT, a, grad, *map_sizes(b), *geometry)
    else:  # a = output's gradient, b = input
        if needed[0]:
            grad_a = call(_FORWARD, b, grad, *geometry)
        if needed[1]:
            grad_b = call(_GRAD_INPUT, a, grad, b.shape[2:], *geometry)
    return [grad_a, grad_b]


def _save(ctx: Any, kind: str, a: Tensor, b: Tensor, rest: tuple) -> None:
    ctx.kind, ctx.rest = kind, rest
    ctx.save_for_backward(a, b)
    ctx.save_for_forward(a, b)
    ctx.set_materialize_grads(False)


class _Bilinear(torch.autograd.Function):
    # above the dispatcher; the first argument is None

    @staticmethod
    def forward(_keyset: None, kind: str, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
        return operator(kind, len(rest[-1]))(a, b, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, kind, a, b, *rest = inputs
        _save(ctx, kind, a, b, tuple(rest))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        grads: list = [None, None]
        if grad is not None:
            a, b = ctx.saved_tensors
            grads = _vjp(ctx.kind, grad, a, b, ctx.rest, ctx.needs_input_grad[2:4])
        return None, None, *grads, *[None] * len(ctx.rest)

    @staticmethod
    def jvp(ctx: Any, _keyset: None, _kind: None, a_t: Tensor | None, b_t: Tensor | None, *_: None) -> Any:
        a, b = ctx.saved_tensors
        terms = []
        if a_t is not None:
            terms.append(call(ctx.kind, a_t, b, *ctx.rest))
        if b_t is not None:
            terms.append(call(ctx.kind, a, b_t, *ctx.rest))
        return sum(terms[1:], terms[0]) if terms else None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, _keyset: None, kind: str, a: Tensor, b: Tensor, *rest: Any
    ) -> tuple[Tensor, int]:
        return _fold_batch(partial(call, kind), info.batch_size, in_dims[2:4], a, b, rest)


class _Dispatched(torch.autograd.Function):
    # below the dispatcher; without setup_context, which takes twice the time by inspecting signatures at each call

    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, kind: str, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
        _save(ctx, kind, a, b, rest)
        return redispatch_below_autograd(operator(kind, len(rest[-1])), keyset, a, b, *rest)

    backward = staticmethod(_Bilinear.backward)
    jvp = staticmethod(_Bilinear.jvp)


def _fold_batch(
    function: Callable[..., Tensor], batch: int, in_dims: Sequence, a: Tensor, b: Tensor, rest: tuple
) -> tuple[Tensor, int]:
    # the vmapped dimension joins the batch
    def fold(tensor: Tensor, dim: int | None) -> Tensor:
        tensor = tensor.unsqueeze(0).expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return tensor.flatten(0, 1)

    output = function(fold(a, in_dims[0]), fold(b, in_dims[1]), *rest)
    return output.unflatten(0, (batch, output.shape[0] // batch if batch else 0)), 0


def redispatch_below_autograd(op: torch._ops.OpOverload, keyset: DispatchKeySet | None, *args: Any) -> Any:
    """Call the kernel that comes after ``Autograd`` in the dispatcher's order; without a keyset, from above of it."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args) if keyset is None else op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def is_short(*tensors: Tensor | None) -> bool:
    """Return whether a call may leave out the dispatcher's ``Autograd`` kernel, whose way through Python takes long.

    Nothing that comes before that kernel may have to see the call: a compiler, a tracer, a mode, autocast, a subclass.
    In inference mode the dispatcher leaves it out itself.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or torch.jit.is_tracing():
        return False
    device_type = tensors[0].device.type  # type: ignore[union-attr]
    if torch._C._len_torch_dispatch_stack():
        return False
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return False
    for tensor in tensors:
        if tensor is not None and type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return False
    return True


def needs_derivative(*tensors: Tensor | None) -> bool:
    """Return whether reverse or forward mode has to record an operation on these tensors."""
    return in_forward_mode() or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def in_forward_mode() -> bool:
    """Return whether a level of forward mode is open, which torch.autograd.forward_ad has no public way to ask."""
    return forward_ad._current_level >= 0


def cast_for_autocast(*tensors: Any) -> tuple:
    """Cast floating tensors to the surrounding autocast context's dtype; float64 and everything else stay."""
    device_type = next(t.device.type for t in tensors if isinstance(t, Tensor))
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(dtype)
        return value

    return tuple(map(cast, tensors))


def register_autocast(op: torch._ops.OpOverload) -> None:
    """Register an operator for autocast with the context's dtype; `torch.library.register_autocast` would fix one."""
    for device in _AUTOCAST_DEVICES:
        own_key = DispatchKeySet(getattr(DispatchKey, f"Autocast{device}"))
        LIBRARY.impl(op, partial(_autocast_kernel, op, own_key), f"Autocast{device}")


def _autocast_kernel(op: torch._ops.OpOverload, own_key: DispatchKeySet, *args: Any) -> Any:
    # before the guard: inside it autocast counts as disabled
    args = cast_for_autocast(*args)
    with torch._C._ExcludeDispatchKeyGuard(own_key):
        return op(*args)


def _fake_forward(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    size = (*input.shape[:2], *weight.shape[-len(stride) :])
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=output_format(input))


def _fake_grad_input(
    grad: Tensor, weight: Tensor, input_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    size = (*grad.shape[:2], *input_size)
    return torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=output_format(grad))


def _fake_grad_weight(
    grad: Tensor, input: Tensor, groups: int, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    taps = groups
    for k in kernel_size:
        taps = taps * k
    size = (grad.shape[0], taps, *grad.shape[2:])
    output = torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=output_format(grad))
    return output.unflatten(1, (groups, *kernel_size))


def _register(kind: str, dims: int, fake: Any) -> None:
    op = operator(kind, dims)

    def autograd_kernel(keyset: DispatchKeySet, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
        if needs_derivative(a, b):
            return _Dispatched.apply(keyset, kind, a, b, *rest)
        return redispatch_below_autograd(op, keyset, a, b, *rest)

    def vmap_rule(info: Any, in_dims: tuple, a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _fold_batch(op, info.batch_size, in_dims[:2], a, b, rest)

    LIBRARY.impl(op, autograd_kernel, "Autograd", with_keyset=True)
    torch.library.register_fake(op, fake, lib=LIBRARY)
    torch.library.register_vmap(op, vmap_rule, lib=LIBRARY)


for _dims in (2, 3):
    _register(_FORWARD, _dims, _fake_forward)
    _register(_GRAD_INPUT, _dims, _fake_grad_input)
    _register(_GRAD_WEIGHT, _dims, _fake_grad_weight)
    register_autocast(operator(_FORWARD, _dims))
