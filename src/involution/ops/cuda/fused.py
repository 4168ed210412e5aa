"""The fused operator by tensor cores: what ``fused.cu`` can handle, and how it divides a problem among blocks."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..backends import Unsupported
from . import compiler
from .compiler import Constants

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""In the order of the kernels' constant DTYPE."""
_WARPS = 8
# pixels: with more of them and many features, a product for all is faster; measured on an H100
_MANY = 2048


class Geometry(NamedTuple):
    """Pairs of height and width."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class Problem(NamedTuple):
    """What a plan depends on.

    Attributes:
        geometry: Kernel size, stride, padding, dilation.
        dtype: Of all tensors.
        groups: Of the map.
        width: Channels of a group.
        features: That the map is generated from, at each pixel.
        scale: Whether a scale follows; shift, relu, too.
        narrow: Whether scale and shift are of the dtype, too; else of float32.
        size: Batch, height and width of the output.
    """

    geometry: Geometry
    dtype: torch.dtype
    groups: int
    width: int
    features: int
    scale: bool
    shift: bool
    relu: bool
    narrow: bool
    size: tuple[int, int, int]


class Tile(NamedTuple):
    """What a block computes of an image: rows, columns and groups."""

    height: int
    width: int
    groups: int


class Gpu(NamedTuple):
    """Processors, and bytes of shared memory that a block may take and that a processor has."""

    processors: int
    block: int
    processor: int


@functools.cache
def gpu(device: torch.device) -> Gpu:
    """Return what a device has; for the CPU, where tests run the kernel, what an H100 has."""
    if device.type != "cuda":
        return Gpu(132, 232448, 233472)
    # PyTorch's types do not know all of them
    found: Any = torch.cuda.get_device_properties(device)
    of_block, of_processor = found.shared_memory_per_block_optin, found.shared_memory_per_multiprocessor
    return Gpu(found.multi_processor_count, of_block, of_processor)


def _steps(p: Problem) -> int:
    g = p.geometry
    return (7 * g.stride[1] + (g.kernel_size[1] - 1) * g.dilation[1]) // 16 + 1


def shared_bytes(p: Problem, tile: Tile) -> int:
    """Return how much shared memory a block takes, as fused.cu lays it out."""
    g = p.geometry
    taps, steps = g.kernel_size[0] * 8 * tile.groups, _steps(p)
    rows = (tile.height - 1) * g.stride[0] + (g.kernel_size[0] - 1) * g.dilation[0] + 1
    columns = (tile.width - 8) * g.stride[1] + 16 * steps
    span = taps * (-(-p.features // 16) * 16 + 8)
    image = rows * columns * (tile.groups * p.width + 8)
    return 2 * (span + image + _WARPS * g.kernel_size[0] * steps * 256) + 4 * taps


def _resident(p: Problem, gpu: Gpu, shared: int) -> int:
    # a processor's blocks: more would leave a thread too few registers
    return min(3 if p.features <= 16 else 2, gpu.processor // (shared + 1024))


def _blocks(p: Problem, tile: Tile, each: int) -> int:
    images, height, width = p.size
    return -(-height // tile.height) * -(-width // tile.width) * (p.groups // tile.groups) * -(-images // each)


def microseconds(p: Problem, tile: Tile, each: int, gpu: Gpu) -> float:
    """Return about how long the kernel takes with a tile; the weights were fitted to 250 measurements on an H100."""
    k_h, steps = p.geometry.kernel_size[0], _steps(p)
    shared, blocks = shared_bytes(p, tile), _blocks(p, tile, each)
    units = tile.height // 2 * (tile.width // 8) * tile.groups
    products = k_h * (-(-p.features // 16) + 2 * steps * p.width // 16)
    waves = -(-blocks // (gpu.processors * _resident(p, gpu, shared)))
    of_processor = -(-blocks // gpu.processors)
    latency = 1.6 + each * (0.26 + 0.0044 * products)
    work = 1.5e-5 * shared + each * units * (0.049 + 0.0019 * products)
    return 1 + waves * latency + of_processor * work


def tiles(p: Problem, gpu: Gpu) -> Iterator[tuple[float, Tile, int]]:
    """Yield estimates of the time, tiles that fit, and how many images a block should have."""
    _, height, width = p.size
    widths = {-(-width // parts // 8) * 8 for parts in range(-(-width // 64), -(-width // 64) + 4)}
    heights = {-(-height // parts // 2) * 2 for parts in (1, 2, 3, 4, 5, 7, 8, 10, 14, 16, 20, 28, -(-height // 2))}
    for groups, tile_height, tile_width in itertools.product((8, 4, 2, 1), heights, widths):
        if p.groups % groups or groups * p.width > max(128, p.width):
            continue
        tile = Tile(tile_height, tile_width, groups)
        shared = shared_bytes(p, tile)
        if shared <= min(gpu.block, gpu.processor - 1024):
            places = gpu.processors * _resident(p, gpu, shared)
            each = max(1, min(16, _blocks(p, tile, 1) // (4 * places)))
            yield microseconds(p, tile, each, gpu), tile, each


@functools.lru_cache(maxsize=4096)
def plan(p: Problem, gpu: Gpu) -> tuple[Constants, Tile, int]:
    """Return the constants that the kernel is compiled with, the tile of a block, and how many images it has.

    Raises:
        Unsupported: If the kernel can't handle the problem.
    """
    g = p.geometry
    if p.dtype not in DTYPES[1:]:
        raise Unsupported("float32 by tensor cores")
    if p.width % 16 or p.features % 8 or p.features > 256:
        raise Unsupported(f"groups of {p.width} channels or {p.features} features by tensor cores")
    if p.features > 64 and math.prod(p.size) > _MANY:
        raise Unsupported("so many pixels of so many features, for which a product of all is faster")
    if g.kernel_size[1] > 8 or g.kernel_size[0] > 15 or _steps(p) > 2:
        raise Unsupported("so wide a window by tensor cores")
    _, tile, each = min(tiles(p, gpu), default=(0, None, 0))
    if tile is None:
        raise Unsupported("a tile that does not fit into shared memory")
    constants = {
        "KERNEL_NUMBER": compiler.KERNELS.index("fused"),
        "DTYPE": DTYPES.index(p.dtype),
        "GROUPS": p.groups,
        "WIDTH": p.width,
        "FEATURES": p.features,
        "SCALE": int(p.scale),
        "SHIFT": int(p.shift),
        "RELU": int(p.relu),
        "NARROW_AFFINE": int(p.narrow),
        "TILE_H": tile.height,
        "TILE_W": tile.width,
        "BLOCK_GROUPS": tile.groups,
        "THREADS": 32 * _WARPS,
        "BLOCKS": _resident(p, gpu, shared_bytes(p, tile)),
        "SHARED": shared_bytes(p, tile),
    }
    pairs = zip("KSPD", g, strict=True)
    constants |= {f"{name}{axis}": size for name, pair in pairs for axis, size in zip("HW", pair, strict=True)}
    return tuple(constants.items()), tile, each


@functools.lru_cache(maxsize=4096)
def prepared(
    p: Problem, gpu: Gpu, size: tuple[int, int], strides: tuple[tuple[int, ...], ...]
) -> tuple[Constants, compiler.Args]:
    """Return the kernel's constants, and its argument but for the pointers.

    Args:
        p: The problem.
        gpu: What it runs on.
        size: Height and width of the input.
        strides: Of input, features and output.

    Raises:
        Unsupported: If the kernel can't handle the problem.
    """
    constants, tile, each = plan(p, gpu)
    images, height, width = p.size
    if any(t[2] >= 2**31 // max(*size, height) for t in strides):
        raise Unsupported("an image of 2³¹ elements or more")
    args = compiler.Args(height=size[0], width=size[1], out_height=height, out_width=width, images=images, each=each)
    (args.x_n, _, args.x_h, _), (args.w_n, _, args.w_h, _), (args.out_n, _, args.out_h, _) = strides
    args.tiles, args.bands = -(-width // tile.width), -(-height // tile.height)
    threads = _blocks(p, tile, each) * 32 * _WARPS
    if threads >= 2**32:
        raise Unsupported(f"{threads} threads")
    args.threads = threads
    return constants, args
