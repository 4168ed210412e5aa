"""GPU kernels in Triton: launchers, callable on tensors of a GPU, or of the CPU under ``TRITON_INTERPRET=1``.

The arguments are those of the operators in ``involution/ops/schema.py``. Nothing here imports triton before the first
call, and a call that the kernels can't handle raises `Unsupported` with the reason; the operators then use the plain
form. With ``INVOLUTION_TRITON=0`` in the environment they always do; with ``1`` a missing triton is an error.
"""

import contextlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..backends import Absence, Unsupported, missing, switch
from ..schema import output_format
from . import launch

Size = Sequence[int]

_SWITCH = "INVOLUTION_TRITON"


def _absence() -> Absence | None:
    # looks for it and does not load it
    return switch(_SWITCH) or (None if find_spec("triton") else missing(_SWITCH, "triton is not installed"))


absence: Absence | None = _absence()
reason: str | None = None if absence is None else absence.reason
"""Why there are no GPU kernels here; None where there are."""


def forward(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Apply involution: ``involution2d``."""
    _require_map(input, "input", weight)
    output = _empty((*input.shape[:2], *weight.shape[4:]), input)
    pixels = weight.shape[4] * weight.shape[5]
    _bilinear("forward", (input, weight, output), input.shape, weight.shape, pixels, stride, padding, dilation)
    return output


def grad_input(grad: Tensor, weight: Tensor, input_size: Size, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Compute the gradient of the input by gathering: ``involution2d_grad_input``."""
    _require_map(grad, "grad", weight)
    _require(grad.shape[2:] == weight.shape[4:], "grad and the map of the same size", grad, weight)
    output = _empty((*grad.shape[:2], *input_size), grad)
    pixels = output.shape[2] * output.shape[3]
    _bilinear("grad_input", (grad, weight, output), output.shape, weight.shape, pixels, stride, padding, dilation)
    return output


def grad_weight(
    grad: Tensor, input: Tensor, groups: int, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the kernel map: ``involution2d_grad_weight``."""
    _require(grad.shape[:2] == input.shape[:2], "grad and input of the same batch and channels", grad, input)
    _require(groups > 0 and input.shape[1] % groups == 0, f"channels in {groups} groups", input)
    taps = groups * kernel_size[0] * kernel_size[1]
    output = _empty((grad.shape[0], taps, *grad.shape[2:]), grad).unflatten(1, (groups, *kernel_size))
    pixels = grad.shape[2] * grad.shape[3]
    _bilinear("grad_weight", (grad, input, output), input.shape, output.shape, pixels, stride, padding, dilation)
    return output


def dynamic_forward(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Generate the kernels and apply them: ``dynamic_involution2d`` and ``dynamic_involution2d_affine``."""
    for parameter in (scale, shift):
        if parameter is not None:
            _require(parameter.shape == input.shape[1:2], "one scale and shift for each channel", parameter, input)
    output = _empty((*input.shape[:2], *reduced.shape[2:]), input)
    call = _Dynamic("dynamic_forward", input, reduced, span_weight, span_bias, stride, padding, dilation)
    # the epilogue's parameters may stay in float32 with half types
    call.launch(
        (input, reduced, *call.span, _contiguous(scale, input), _contiguous(shift, input), output),
        (input, reduced, output),
        call.blocks.pixels * call.blocks.groups * call.blocks.channels,
        HAS_BIAS=span_bias is not None,
        HAS_SCALE=scale is not None,
        HAS_SHIFT=shift is not None,
        RELU=relu,
        TAPS=call.tile.taps,
    )
    return output


def dynamic_backward(
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
    """Compute the gradients of all four: ``dynamic_involution2d_backward``. The kernels are generated again."""
    size = (*input.shape[:2], *reduced.shape[2:])
    _require(grad.shape == size, "grad of the output's shape", grad, input, reduced)
    operands = input, reduced, span_weight, span_bias, stride, padding, dilation
    grads = [grad.new_empty(0) for _ in range(4)]
    if output_mask[0]:
        grads[0] = _empty(input.shape, grad)
        call = _Dynamic("dynamic_grad_input", *operands, pixels=input.shape[2] * input.shape[3])
        call.launch(
            (grad, reduced, *call.span, grads[0]),
            (grad, reduced, grads[0]),
            call.blocks.pixels * call.blocks.groups * call.blocks.channels,
            HAS_BIAS=span_bias is not None,
        )
    if output_mask[1]:
        grads[1] = _empty(reduced.shape, grad)
        call = _Dynamic("dynamic_grad_reduced", *operands)
        call.launch(
            (grad, input, call.span[0], grads[1]), (grad, input, grads[1]), call.blocks.pixels, TAPS=call.tile.taps
        )
    if output_mask[2] or output_mask[3]:
        call = _Dynamic("dynamic_grad_span", *operands)
        tiles = call.blocks.pixels * input.shape[0]
        k = span_weight.shape[1] * span_weight.shape[2]
        columns = launch.ceil_div(k, call.tile.taps) * call.blocks.groups
        share = launch.ceil_div(tiles, launch.splits(tiles, columns)) if tiles else 1
        parts = launch.ceil_div(tiles, share)
        span_parts = grad.new_empty((parts, *span_weight.shape), dtype=torch.float32)
        bias_parts = grad.new_empty((parts, *span_weight.shape[:3]), dtype=torch.float32)
        call.launch(
            (grad, input, reduced, span_parts, bias_parts),
            (grad, input, reduced),
            columns * parts,
            (tiles, share),
            each_image=False,
            TAPS=call.tile.taps,
        )
        if output_mask[2]:
            grads[2] = span_parts.sum(0).to(span_weight.dtype)
        if output_mask[3]:
            grads[3] = bias_parts.sum(0).to(span_weight.dtype)
    return grads[0], grads[1], grads[2], grads[3]


def _require(condition: bool, wanted: str, *tensors: Tensor) -> None:
    # a kernel would read out of bounds
    devices = {t.device for t in tensors}
    if not condition or len(devices) > 1:
        got = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise ValueError(f"the GPU kernels need {wanted}, on one device; got {got}")


def _require_map(activation: Tensor, name: str, weight: Tensor) -> None:
    _require(weight.dim() == 6, "a map [N, G, K_h, K_w, H_o, W_o]", weight)
    _require(activation.dim() == 4, f"{name} of four dimensions [N, C, H, W]", activation)
    fits = activation.shape[0] == weight.shape[0] and activation.shape[1] % max(1, weight.shape[1]) == 0
    _require(fits, f"{name} and map of the same batch, channels in the map's groups", activation, weight)


def interpreting() -> bool:
    """Return whether Triton's interpreter stands in for a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _empty(size: Size, like: Tensor) -> Tensor:
    return torch.empty(tuple(size), dtype=like.dtype, device=like.device, memory_format=output_format(like))


def _contiguous(parameter: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel's pointers must not be null; one that isn't read may point anywhere
    return stand_in if parameter is None else parameter.contiguous()


def _bilinear(
    name: str,
    tensors: tuple[Tensor, Tensor, Tensor],
    input_size: Size,
    map_size: Size,
    pixels: int,
    stride: Size,
    padding: Size,
    dilation: Size,
) -> None:
    n, channels, height, width = input_size
    groups, k_h, k_w, out_height, out_width = map_size[1:]
    group_width = channels // groups if groups else 0
    if n * pixels * channels * k_h * k_w == 0 or out_height * out_width == 0:
        tensors[2].zero_()
        return
    config = launch.config(name, tensors[0].dtype)
    tile = launch.tile(config, k_h * k_w, pixels, groups, group_width)
    blocks = launch.blocks(tile, pixels, groups, group_width)
    programs = n * blocks.pixels * blocks.groups * (1 if name == "grad_weight" else blocks.channels)
    _refuse(tensors, programs)
    _start(
        name,
        programs,
        (
            *tensors,
            *(height, width, out_height, out_width, groups, group_width),
            *(blocks.pixels, blocks.groups, blocks.channels),
            *(s for t in tensors for s in t.stride()),
            *(*stride, *padding, *dilation),
        ),
        {
            "K_H": k_h,
            "K_W": k_w,
            "TAPS": tile.taps,
            "PIXELS": tile.pixels,
            "GROUPS": tile.groups,
            "CHANNELS": tile.channels,
        },
        wide=launch.is_wide(*tensors),
    )


class _Dynamic:
    # shared by the four fused kernels

    def __init__(
        self,
        name: str,
        input: Tensor,
        reduced: Tensor,
        span_weight: Tensor,
        span_bias: Tensor | None,
        stride: Size,
        padding: Size,
        dilation: Size,
        *,
        pixels: int | None = None,
    ) -> None:
        _require(span_weight.dim() == 4, "a span [G, K_h, K_w, R]", span_weight)
        _require(reduced.shape[:2] == (input.shape[0], span_weight.shape[3]), "features [N, R]", reduced, span_weight)
        _require(
            input.shape[1] % max(1, span_weight.shape[0]) == 0, "channels in the span's groups", input, span_weight
        )
        if span_bias is not None:
            _require(span_bias.shape == span_weight.shape[:3], "a bias [G, K_h, K_w]", span_bias, span_weight)
        self.name = name
        self.images = input.shape[0]
        groups, self.k_h, self.k_w, features = span_weight.shape
        group_width = input.shape[1] // max(1, groups)
        pixels = reduced.shape[2] * reduced.shape[3] if pixels is None else pixels
        self.features = features
        self.tile = launch.fused_tile(launch.config(name, input.dtype), groups, group_width, features)
        self.blocks = launch.blocks(self.tile, pixels, groups, group_width)
        self.sizes = (*input.shape[2:], *reduced.shape[2:], groups, group_width, features)
        self.geometry = (*stride, *padding, *dilation)
        self.span = span_weight.contiguous(), _contiguous(span_bias, span_weight)
        self.operands = input, reduced, span_weight, span_bias
        if 0 in (*self.sizes, *input.shape, self.k_h, self.k_w):
            raise Unsupported("an empty tensor")

    def launch(
        self,
        tensors: tuple[Tensor, ...],
        strided: tuple[Tensor, ...],
        programs: int,
        more: tuple[int, ...] = (),
        *,
        each_image: bool = True,
        **constants: Any,
    ) -> None:
        programs *= self.images if each_image else 1
        _refuse(self.operands, programs, self.features)
        _start(
            self.name,
            programs,
            (
                *tensors,
                *self.sizes,
                *(self.blocks.pixels, self.blocks.groups, self.blocks.channels),
                *more,
                *(s for t in strided for s in t.stride()),
                *self.geometry,
            ),
            dict(
                K_H=self.k_h,
                K_W=self.k_w,
                FEATURES=launch.feature_block(self.features),
                PRECISION=_precision(),
                PIXELS=self.tile.pixels,
                GROUPS=self.tile.groups,
                CHANNELS=self.tile.channels,
                **constants,
            ),
            wide=launch.is_wide(*strided),
        )


def _precision() -> str:
    if interpreting():
        return "float32"
    # precision of float32 products: as exact as the plain form, unless PyTorch's switch allows less
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _refuse(tensors: Sequence[Tensor | None], programs: int, features: int = 0) -> None:
    for refusal in launch.refusals(tensors, programs, features):
        raise Unsupported(refusal)


def _start(name: str, programs: int, args: tuple, constants: dict[str, Any], *, wide: bool) -> None:
    device = args[0].device
    if device.type == "cpu" and not interpreting():
        raise RuntimeError("a Triton kernel got CPU tensors: move them to a GPU, or set TRITON_INTERPRET=1")
    if reason is not None:
        raise RuntimeError(f"there are no GPU kernels: {reason}")
    from . import kernels

    # Triton launches on the current device, whatever device the tensors are on
    here = contextlib.nullcontext() if device.type == "cpu" else torch.accelerator.device_index(device.index)
    config = launch.config(name, args[0].dtype)
    options: dict[str, Any] = {"num_warps": config.warps, "num_stages": config.stages}
    if device.type == "cuda" and torch.version.hip is None:
        options["maxnreg"] = launch.MAX_REGISTERS
    with here:
        getattr(kernels, name)[(programs,)](*args, **constants, WIDE=wide, **options)
