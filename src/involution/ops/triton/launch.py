"""Launch parameters of the GPU kernels: tiles, grids, address widths. Plain arithmetic; needs no triton and no GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_PROGRAMS = 2**31 - 1
"""CUDA's limit for the first axis of a grid, the only one used."""
MAX_FEATURES = 256
"""The most reduced features that the fused kernels keep in registers."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

MAX_REGISTERS = 255
"""NVIDIA's limit per thread. Without it, the assembler spills registers to fit more programs on a processor."""

# the smallest size of a matrix product in each direction
_DOT = 16


@dataclass(frozen=True)
class Config:
    """How large a program's tile is.

    Attributes:
        elements: Taps × pixels × groups × channels of a tile.
        taps: The most taps at a time.
        groups: The most groups at a time.
        channels: The most channels of a group at a time.
        warps: Warps of a program.
        stages: Loop iterations whose loads are in flight together, if they feed a matrix product.
        tuned: Device and Triton version on which it was measured to be best; None if it was chosen by design, from
            the compiler's report on registers, shared memory and instructions.
    """

    elements: int
    taps: int
    groups: int
    channels: int
    warps: int
    stages: int
    tuned: str | None = None


_UNFUSED = "forward", "grad_input", "grad_weight"
_OF_MAP_GRADIENT = "dynamic_grad_reduced", "dynamic_grad_span"
CONFIGS = {
    # 64 channels are 128 bytes in a half type, one cache line
    **{(name, size): Config(8192, 4, 64, 64, 4, 3) for name in _UNFUSED for size in (2, 4)},
    # 16 columns of the span for a matrix product; a tile of more groups and fewer taps needs twice the registers,
    # and so does a product in full float32
    ("dynamic_forward", 2): Config(8192, 16, 4, 16, 4, 3),
    ("dynamic_forward", 4): Config(4096, 16, 4, 16, 8, 2),
    # each tap has its own features, which several groups share
    ("dynamic_grad_input", 2): Config(4096, 1, 8, 16, 4, 3),
    ("dynamic_grad_input", 4): Config(4096, 1, 8, 16, 8, 3),
    # more stages would spill on sm_80
    **{(name, 2): Config(8192, 16, 4, 16, 4, 2) for name in _OF_MAP_GRADIENT},
    **{(name, 4): Config(4096, 16, 4, 16, 8, 1) for name in _OF_MAP_GRADIENT},
}
"""The shipped configurations, by kernel and bytes of an element."""


def config(kernel: str, dtype: torch.dtype) -> Config:
    """Return a kernel's configuration for a dtype; for an unsupported one, that of the widest supported dtype."""
    return CONFIGS[kernel, min(dtype.itemsize, 4)]


@dataclass(frozen=True)
class Tile:
    """A program's tile: pixels × taps × groups × channels of a group, each a power of two."""

    pixels: int
    groups: int
    channels: int
    taps: int = 1


@dataclass(frozen=True)
class Blocks:
    """How many tiles cover an image's pixels, the groups, and the channels of a group."""

    pixels: int
    groups: int
    channels: int


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least ``size``."""
    return 1 << max(0, size - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up."""
    return -(-a // b)


def tile(config: Config, taps: int, pixels: int, groups: int, group_width: int) -> Tile:
    """Choose an unfused kernel's tile, given the number of taps and pixels."""
    taps = min(power_of_two(taps), config.taps)
    channels = min(power_of_two(group_width), config.channels)
    groups = min(power_of_two(groups), max(1, config.groups // channels))
    return Tile(min(power_of_two(pixels), config.elements // (taps * groups * channels)), groups, channels, taps)


def fused_tile(config: Config, groups: int, group_width: int, features: int) -> Tile:
    """Choose a fused kernel's tile: with few groups it covers more taps at a time, up to 16 columns."""
    channels = min(power_of_two(group_width), config.channels)
    groups = min(power_of_two(groups), config.groups)
    taps = min(config.taps, max(1, _DOT // groups))
    # with many features, fewer pixels fit into the registers
    pixels = config.elements // (taps * groups * channels) // (2 if features > 128 else 1)
    return Tile(min(64, max(_DOT, pixels)), groups, channels, taps)


def feature_block(features: int) -> int:
    """Return the power of two that the reduced features are padded to."""
    return max(_DOT, power_of_two(features))


def blocks(tile: Tile, pixels: int, groups: int, group_width: int) -> Blocks:
    """Count the tiles."""
    return Blocks(ceil_div(pixels, tile.pixels), ceil_div(groups, tile.groups), ceil_div(group_width, tile.channels))


def splits(tiles: int, columns: int, programs: int = 1024) -> int:
    """Return how many parts the sum over all tiles of pixels is split into, given the number of column blocks.

    It depends only on sizes, never on the device, so the order of the sum, and thus every bit, is the same everywhere.
    """
    return max(1, min(tiles, ceil_div(programs, columns)))


def is_wide(*tensors: Tensor) -> bool:
    """Return whether an image in any of the tensors spans more than 2³¹ elements, so that offsets need 64 bits."""
    return any(extent(t.shape[1:], t.stride()[1:]) >= 2**31 for t in tensors)


def extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Return the distance from the first to the last element."""
    return sum((n - 1) * abs(s) for n, s in zip(size, stride, strict=True) if n > 0)


def refusals(tensors: Sequence[Tensor | None], programs: int, features: int = 0) -> Iterator[str]:
    """Yield each reason why the kernels can't handle a call; the plain form then does."""
    dtypes = {t.dtype for t in tensors if t is not None}
    if len(dtypes) > 1:
        yield f"tensors with different dtypes: {', '.join(sorted(map(str, dtypes)))}"
    elif not dtypes <= set(DTYPES):
        yield f"{dtypes.pop()}: the kernels compute in float32"
    if features > MAX_FEATURES:
        yield f"{features} reduced features: the kernels keep at most {MAX_FEATURES} in registers"
    if programs > MAX_PROGRAMS:
        yield f"{programs} programs: a launch has at most {MAX_PROGRAMS}"
    if any(t is not None and t.dim() > 3 and t.shape[-1] * t.shape[-2] >= 2**31 for t in tensors):
        yield "an image of 2³¹ pixels or more"
