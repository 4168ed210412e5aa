"""GPU kernels in CUDA C++, compiled at run time: launchers, with the arguments of the operators in ops/schema.py.

``fused.cu`` generates the kernels and applies them in half types, all by tensor cores. ``kernels.cu`` applies a map and
computes both of its gradients. What generates a map, and the gradients of what generated it, are matrix products, which
PyTorch does: where ``fused.cu`` can't, and backward, the fused operator runs both in turn for as many images as
fit into a buffer of `MAP_BYTES`, so it never holds the whole map.

A call that the kernels can't handle raises `Unsupported` with the reason; the Triton kernels then handle it. With
``INVOLUTION_CUDA=0`` in the environment they always do.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import Absence, Unsupported, missing, switch
from ..schema import output_format
from . import compiler, fused
from .compiler import Constants
from .fused import DTYPES, Geometry

Size = Sequence[int]

_SWITCH = "INVOLUTION_CUDA"
MAP_BYTES = 2**28
"""The most memory that the fused operator takes for a part of the map."""
# so few features a product with a bias is slow for, and the columns of ones that then stand for it
_FEW, _ONES = 16, 8
_THREADS = 128
_BANDS = (8, 7, 6, 5, 4, 3, 2, 1)


def _absence() -> Absence | None:
    found = switch(_SWITCH)
    if found is None and torch.version.hip is not None:
        return Absence("an AMD GPU", "silence")
    if found is None and torch.version.cuda is None:
        # nothing would run there
        return Absence("this PyTorch has no CUDA", "silence")
    if found is None and (find_spec("cuda") is None or find_spec("cuda.bindings") is None):
        return missing(_SWITCH, "cuda-bindings is not installed")
    return found


absence: Absence | None = _absence()


def row_pitch(kernel_width: int) -> int:
    """Return how many elements a kernel's row takes in a map in rows: a multiple of four."""
    return -(-kernel_width // 4) * 4


def forward(input: Tensor, weight: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Apply involution: ``involution2d``."""
    geometry = Geometry(tuple(weight.shape[2:4]), tuple(stride), tuple(padding), tuple(dilation))
    output = _empty((*input.shape[:2], *weight.shape[4:]), input)
    _apply("forward", geometry, weight.shape[1], _dense(input), weight, output)
    return _as(input, output)


def grad_input(grad: Tensor, weight: Tensor, input_size: Size, stride: Size, padding: Size, dilation: Size) -> Tensor:
    """Compute the gradient of the input: ``involution2d_grad_input``."""
    geometry = Geometry(tuple(weight.shape[2:4]), tuple(stride), tuple(padding), tuple(dilation))
    output = _empty((*grad.shape[:2], *input_size), grad)
    _apply("grad_input", geometry, weight.shape[1], _dense(grad), weight, output)
    return _as(grad, output)


def grad_weight(
    grad: Tensor, input: Tensor, groups: int, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Tensor:
    """Compute the gradient of the map: ``involution2d_grad_weight``."""
    geometry = Geometry(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    channels = groups * kernel_size[0] * kernel_size[1]
    size = grad.shape[0], channels, *grad.shape[2:]
    output = torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=output_format(grad))
    output = output.unflatten(1, (groups, *kernel_size))
    _apply("grad_weight", geometry, groups, _dense(grad), _dense(input), output)
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
    geometry = Geometry(tuple(span_weight.shape[1:3]), tuple(stride), tuple(padding), tuple(dilation))
    if input.dtype != torch.float32:
        with contextlib.suppress(Unsupported):
            return _by_tensor_cores(input, reduced, span_weight, span_bias, geometry, scale, shift, relu)
    generator = _Generator(reduced, span_weight, span_bias)
    output = _empty((*input.shape[:2], *reduced.shape[2:]), input)
    x, groups = _dense(input), span_weight.shape[0]
    epilogue = _float(scale), _float(shift), relu
    for images in generator.parts():
        _apply("forward", geometry, groups, x[images], generator.rows(images), output[images], epilogue)
    return _as(input, output)


def _by_tensor_cores(
    input: Tensor,
    reduced: Tensor,
    span: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    dtype, groups = input.dtype, span.shape[0]
    if reduced.dtype != dtype or span.dtype != dtype or (bias is not None and bias.dtype != dtype):
        raise Unsupported("dtypes that differ")
    images, channels, height, width = input.shape
    _, features, out_height, out_width = reduced.shape
    if 0 in (*input.shape, *reduced.shape):
        raise Unsupported("an empty tensor")
    affine = [parameter for parameter in (scale, shift) if parameter is not None]
    narrow = bool(affine) and all(parameter.dtype == dtype for parameter in affine)
    if not narrow:
        scale, shift = _float(scale), _float(shift)
    x, r, span = _dense(input), _dense(reduced), span.contiguous()
    if span.data_ptr() % 16:
        span = span.clone()
    output = _empty((images, channels, out_height, out_width), input)
    follows = scale is not None, shift is not None, relu, narrow
    problem = fused.Problem(
        geometry, dtype, groups, channels // groups, features, *follows, (images, out_height, out_width)
    )
    strides = x.stride(), r.stride(), output.stride()
    constants, template = fused.prepared(problem, fused.gpu(input.device), (height, width), strides)
    args = compiler.Args.from_buffer_copy(template)
    args.x, args.w, args.out, args.span = x.data_ptr(), r.data_ptr(), output.data_ptr(), span.data_ptr()
    bias, scale, shift = (t if t is None else t.contiguous() for t in (bias, scale, shift))
    args.bias, args.scale, args.shift = (t if t is None else t.data_ptr() for t in (bias, scale, shift))
    run(constants, args, input.device)
    return _as(input, output)


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
    generator = _Generator(reduced, span_weight, span_bias, with_ones=output_mask[3])
    geometry = Geometry(tuple(span_weight.shape[1:3]), tuple(stride), tuple(padding), tuple(dilation))
    groups = span_weight.shape[0]
    of_input, of_reduced, of_span, of_bias = (grad.new_empty(0) for _ in range(4))
    dy, x = _dense(grad), _dense(input)
    if output_mask[0]:
        of_input = _empty(input.shape, grad)
        for images in generator.parts():
            _apply("grad_input", geometry, groups, dy[images], generator.rows(images), of_input[images])
        of_input = _as(grad, of_input)
    if any(output_mask[1:]):
        features = _empty(reduced.shape, grad).permute(0, 2, 3, 1) if output_mask[1] else None
        filters = torch.zeros_like(generator.filters, dtype=torch.float32)
        for images in generator.parts():
            rows = generator.empty_rows(images)
            _apply("grad_weight", geometry, groups, dy[images], x[images], rows)
            if features is not None:
                torch.mm(rows, generator.filters[: reduced.shape[1]].t(), out=features[images].flatten(0, 2))
            if output_mask[2] or output_mask[3]:
                filters += product_in_float(generator.features[images].flatten(0, 2).t(), rows)
        if features is not None:
            of_reduced = _as(grad, features.permute(0, 3, 1, 2))
        unpadded = generator.unpad(filters).to(span_weight.dtype)
        if output_mask[2]:
            of_span = unpadded[..., : reduced.shape[1]].contiguous()
        if output_mask[3]:
            of_bias = unpadded[..., -1].contiguous()
    return of_input, of_reduced, of_span, of_bias


class _Generator:
    # the span as a matrix whose product with the features is a map in rows

    def __init__(self, reduced: Tensor, span: Tensor, bias: Tensor | None, *, with_ones: bool = False) -> None:
        if 0 in reduced.shape or 0 in span.shape:
            raise Unsupported("an empty tensor")
        if len({t.dtype for t in (reduced, span, bias) if t is not None}) > 1 or reduced.dtype not in DTYPES:
            raise Unsupported("dtypes that differ, or that the kernels do not support")
        self.groups, self.k_h, self.k_w, self.reduced = span.shape
        self.pitch = row_pitch(self.k_w)
        self.features = reduced.permute(0, 2, 3, 1).contiguous()
        columns = self.reduced
        # a column of ones, or rather as many as keep the rows aligned, adds the bias, and sums its gradient, within the
        # product; with few features a product that adds a vector takes three times as long
        self.with_ones = with_ones or (bias is not None and columns <= _FEW)
        if self.with_ones:
            self.features = F.pad(self.features, (0, _ONES), value=1.0)
            columns += _ONES
        count = self.k_h * self.groups * self.pitch
        packed = span.new_empty(count * (columns + 1))
        constants = packing(span.dtype, self.groups, self.k_h, self.k_w)
        args = compiler.Args(height=self.reduced, width=columns, threads=packed.numel())
        span = span.contiguous()
        args.x, args.out = span.data_ptr(), packed.data_ptr()
        if bias is not None:
            bias = bias.contiguous()
            args.w = bias.data_ptr()
        run(constants, args, span.device)
        self.filters = packed[: count * columns].view(count, columns).t()
        self.bias = None if bias is None or self.with_ones else packed[count * columns :]

    def parts(self) -> Iterator[slice]:
        images, height, width, _ = self.features.shape
        each = height * width * self.filters.shape[1] * self.filters.element_size()
        step = max(1, MAP_BYTES // each)
        return (slice(first, min(first + step, images)) for first in range(0, images, step))

    def rows(self, images: slice) -> Tensor:
        features = self.features[images].flatten(0, 2)
        if self.bias is None:
            return torch.mm(features, self.filters)
        return torch.addmm(self.bias, features, self.filters)

    def empty_rows(self, images: slice) -> Tensor:
        features = self.features[images]
        return features.new_empty((features.shape[:3].numel(), self.filters.shape[1]))

    def unpad(self, matrix: Tensor) -> Tensor:
        """Return ``[G, K_h, K_w, columns]`` of a matrix like the filters."""
        parts = matrix.view(matrix.shape[0], self.k_h, self.groups, self.pitch)[..., : self.k_w]
        return parts.permute(2, 1, 3, 0)


def product_in_float(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices of any supported dtype; the product stays in float32."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32)


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float().contiguous()


def _empty(size: Size, like: Tensor) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _as(like: Tensor, output: Tensor) -> Tensor:
    # in the memory order that every kernel answers with
    return output.contiguous(memory_format=output_format(like))


def _dense(activation: Tensor) -> Tensor:
    """Return the activation with its channels innermost and aligned for the widest load."""
    elements = 16 // activation.element_size()
    n, c, h, w = activation.stride()
    if c == 1 and w == activation.shape[1] and not (n % elements or h % elements or activation.data_ptr() % 16):
        return activation
    output = torch.empty_like(activation, memory_format=torch.channels_last)
    return output.copy_(activation)


@dataclass(frozen=True)
class Config:
    """How a thread computes. Measured on an NVIDIA H200 at the layers of RedNet-50 and of a detector's neck.

    Attributes:
        bytes: Of the channels that it computes together; 16 are its widest load.
        tile: Neighbouring pixels of a row.
        ring: Columns whose loads are in flight.
        blocks: The least number of blocks that a processor holds, which limits a thread's registers.
    """

    bytes: int
    tile: int
    ring: int
    blocks: int


CONFIGS = {
    # kernel, bytes of an element, whether the columns have a stride
    ("forward", 2, False): Config(16, 4, 10, 4),
    ("forward", 2, True): Config(16, 4, 10, 3),
    ("grad_input", 2, False): Config(16, 4, 10, 3),
    ("grad_input", 2, True): Config(8, 8, 8, 4),
    ("grad_weight", 2, False): Config(16, 4, 6, 4),
    ("grad_weight", 2, True): Config(16, 4, 6, 4),
    ("forward", 4, False): Config(16, 4, 10, 4),
    ("forward", 4, True): Config(16, 4, 10, 4),
    ("grad_input", 4, False): Config(16, 7, 6, 1),
    ("grad_input", 4, True): Config(16, 8, 6, 1),
    ("grad_weight", 4, False): Config(16, 7, 6, 3),
    ("grad_weight", 4, True): Config(16, 4, 6, 4),
}
"""The shipped configurations. Any is correct everywhere; another GPU may be faster with others."""
# a wider kernel row needs more registers than these configurations allow for
_TUNED_WIDTH = 8


@functools.cache
def packing(dtype: torch.dtype, groups: int, k_h: int, k_w: int) -> Constants:
    """Return the constants that the kernel is compiled with that packs the span."""
    one = dict.fromkeys(("WIDTH", "TILE", "VEC", "RING", "BLOCKS", "SH", "SW", "PH", "PW", "DH", "DW", "ROWS"), 1)
    which = {"KERNEL_NUMBER": compiler.KERNELS.index("pack"), "DTYPE": DTYPES.index(dtype), "THREADS": _THREADS}
    return tuple({**which, "GROUPS": groups, "KH": k_h, "KW": k_w, **one}.items())


@functools.lru_cache(maxsize=4096)
def plan(
    kernel: str, geometry: Geometry, dtype: torch.dtype, groups: int, width: int, columns: int, rows: bool
) -> Constants:
    """Return the constants that a kernel is compiled with.

    Args:
        kernel: Its name.
        geometry: Kernel size, stride, padding, dilation.
        dtype: Of all tensors.
        groups: Of the map.
        width: Channels of a group.
        columns: Pixels of a row that the kernel computes.
        rows: Whether the map is in rows.

    Raises:
        Unsupported: If a thread's registers would not hold a kernel row, or channels can't be read together.
    """
    k_w, stride, padding, dilation = (pair[1] for pair in geometry)
    span = (k_w - 1) * dilation
    if k_w > 15 or span > 30 or stride > 4 or geometry.stride[0] > 4:
        raise Unsupported(f"kernel size {k_w}, stride {geometry.stride} or dilation {dilation}")
    config = CONFIGS[kernel, dtype.itemsize, stride > 1]
    vector = config.bytes // dtype.itemsize
    while width % vector and vector * dtype.itemsize > 4:
        vector //= 2
    if width % vector:
        raise Unsupported(f"groups of {width} channels in {str(dtype).removeprefix('torch.')}")
    # the compiler must know which taps reach a pixel of the input: a tile begins at a multiple of the stride
    step = stride if kernel == "grad_input" else 1
    tile = -(-min(config.tile, columns) // step) * step
    reads = (tile - 1) * stride + span + 1
    if kernel == "grad_input":
        reads = (tile - 1 + padding) // stride - (padding - span) // stride + 1
    constants = {
        "KERNEL_NUMBER": compiler.KERNELS.index(kernel),
        "DTYPE": DTYPES.index(dtype),
        "ROWS": int(rows),
        "GROUPS": groups,
        "WIDTH": width,
        "TILE": tile,
        "VEC": vector,
        "RING": min(config.ring, reads),
        "THREADS": _THREADS,
        "BLOCKS": config.blocks if k_w <= _TUNED_WIDTH else 1,
    }
    pairs = zip("KSPD", geometry, strict=True)
    constants |= {f"{name}{axis}": size for name, pair in pairs for axis, size in zip("HW", pair, strict=True)}
    return tuple(constants.items())


def _apply(
    kernel: str,
    geometry: Geometry,
    groups: int,
    first: Tensor,
    second: Tensor,
    output: Tensor,
    epilogue: tuple[Tensor | None, Tensor | None, bool] = (None, None, False),
) -> None:
    """Run a kernel.

    Args:
        kernel: Its name.
        geometry: Kernel size, stride, padding, dilation.
        groups: Of the map.
        first: Input, or gradient of the output.
        second: The map, strided or in rows; of ``grad_weight`` the input.
        output: What it writes.
        epilogue: Scale, shift, ReLU; of ``forward``.
    """
    if not first.dtype == second.dtype == output.dtype:
        raise Unsupported("tensors of different dtypes")
    layouts = tuple((tuple(t.shape), t.stride()) for t in (first, second, output))
    constants, template, _ = prepared(kernel, geometry, first.dtype, groups, layouts)
    args = compiler.Args.from_buffer_copy(template)
    args.x, args.w, args.out = first.data_ptr(), second.data_ptr(), output.data_ptr()
    scale, shift, relu = epilogue
    args.scale = None if scale is None else scale.data_ptr()
    args.shift = None if shift is None else shift.data_ptr()
    args.relu = relu
    run(constants, args, first.device)


@functools.lru_cache(maxsize=4096)
def prepared(
    kernel: str,
    geometry: Geometry,
    dtype: torch.dtype,
    groups: int,
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
) -> tuple[Constants, compiler.Args, int]:
    """Return a kernel's constants, its argument but for the pointers, and its number of threads.

    Raises:
        Unsupported: If the kernels can't handle the call.
    """
    of_map = kernel == "grad_weight"
    first, second, output = layouts
    image, outcome = (second, first) if of_map else (first, output) if kernel == "forward" else (output, first)
    map_size, map_stride = output if of_map else second
    images, channels, height, width = image[0]
    out_height, out_width = outcome[0][2:]
    if 0 in (images, channels, height, width, out_height, out_width, groups):
        raise Unsupported("an empty tensor")
    if any(sum((n - 1) * abs(s) for n, s in zip(t[0][1:], t[1][1:], strict=True)) >= 2**31 for t in layouts):
        raise Unsupported("an image of 2³¹ elements or more")
    done_height, done_width = (height, width) if kernel == "grad_input" else (out_height, out_width)
    rows = len(map_size) == 2
    constants = plan(kernel, geometry, dtype, groups, channels // groups, done_width, rows)
    of = dict(constants)
    band = min(_BANDS, key=lambda band: (-(-done_height // band) * band, -band))
    args = compiler.Args(height=height, width=width, out_height=out_height, out_width=out_width)
    args.band, args.bands, args.tiles = band, -(-done_height // band), -(-done_width // of["TILE"])
    vectors = groups * of["KH"] if of_map else channels // of["VEC"]
    threads = images * args.bands * band * args.tiles * vectors
    if threads >= 2**32 - of["THREADS"]:
        raise Unsupported(f"{threads} threads")
    args.threads = threads
    args.x_n, _, args.x_h, _ = first[1]
    other_n, _, other_h, _ = (second if of_map else output)[1]
    map_h = 0
    if rows:
        map_n = map_size[0] * map_size[1] // images
    else:
        map_n, args.map_g, args.map_u, args.map_v, map_h, args.map_w = map_stride
    args.w_n, args.w_h, args.out_n, args.out_h = (
        (other_n, other_h, map_n, map_h) if of_map else (map_n, map_h, other_n, other_h)
    )
    return constants, args, threads


def run(constants: Constants, args: compiler.Args, device: torch.device) -> None:
    """Start a kernel on a GPU; where there is none the tests put a C++ compiler's program in its place."""
    if torch.cuda.current_device() == device.index:
        compiler.launch(constants, args, device.index)
        return
    # a kernel is launched on the current device, whatever device its tensors are on
    with torch.cuda.device(device):
        compiler.launch(constants, args, device.index)
