"""What the GPU kernels are launched with: tiles, grids, address widths. Plain arithmetic, without triton or a GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_PROGRAMS = 2**31 - 1
"""CUDA's limit of a grid's first axis, the only one used."""
MAX_FEATURES = 256
"""The most reduced features that the fused kernels keep in registers."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# a matrix product's least size in each direction
_DOT = 16


@dataclass(frozen=True)
class Config:
    """How large a program's tile is.

    Attributes:
        elements: Pixels × groups × channels that an unfused kernel's program computes, or a fused one's pixels ×
            columns × channels.
        channels: The most channels of one group at a time.
        warps: Warps of a program.
        tuned: Device and Triton version on which it was found by measurement; None where it is a design's guess.
    """

    elements: int
    channels: int
    warps: int
    tuned: str | None = None


_UNFUSED, _FUSED = (
    ("forward", "grad_input", "grad_weight"),
    (
        "dynamic_forward",
        "dynamic_grad_input",
        "dynamic_grad_reduced",
        "dynamic_grad_span",
    ),
)
CONFIGS = {
    **{(name, size): Config(2048, 64, 4) for name in _UNFUSED for size in (2, 4)},
    **{(name, 2): Config(8192, 16, 4) for name in _FUSED},
    # a matrix product in full float32 needs twice the registers
    **{(name, 4): Config(4096, 16, 8) for name in _FUSED},
}
"""The shipped configurations, by kernel and bytes of an element."""


def config(kernel: str, dtype: torch.dtype) -> Config:
    """Return a kernel's configuration for a dtype; for one that it does not take, that of the widest that it does."""
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
    """Return the least power of two that is not below ``size``."""
    return 1 << max(0, size - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up."""
    return -(-a // b)


def tile(config: Config, pixels: int, groups: int, group_width: int) -> Tile:
    """Choose an unfused kernel's tile for an image of so many pixels."""
    channels = min(power_of_two(group_width), config.channels)
    groups = min(power_of_two(groups), max(1, config.channels // channels))
    return Tile(min(power_of_two(pixels), max(1, config.elements // (groups * channels))), groups, channels)


def fused_tile(config: Config, groups: int, group_width: int, features: int, *, several_taps: bool = True) -> Tile:
    """Choose a fused kernel's tile.

    Its columns, taps × groups, are what one matrix product generates; where the groups are few it takes several taps at
    a time, or, where each tap needs features of its own, columns for groups that don't exist.
    """
    channels = min(power_of_two(group_width), config.channels)
    few = min(power_of_two(groups), _DOT)
    taps = _DOT // few if several_taps else 1
    # many features leave registers for fewer pixels
    pixels = config.elements // (_DOT * channels) // (2 if features > 128 else 1)
    return Tile(min(64, max(_DOT, pixels)), _DOT // taps, channels, taps)


def feature_block(features: int) -> int:
    """Return the power of two that the reduced features are padded to."""
    return max(_DOT, power_of_two(features))


def blocks(tile: Tile, pixels: int, groups: int, group_width: int) -> Blocks:
    """Count the tiles."""
    return Blocks(ceil_div(pixels, tile.pixels), ceil_div(groups, tile.groups), ceil_div(group_width, tile.channels))


def splits(tiles: int, columns: int, programs: int = 1024) -> int:
    """Return into how many parts the sum over all tiles of pixels is split, given programs for so many column blocks.

    From sizes alone, never from the device: the order of the sum, and so its bits, are the same everywhere.
    """
    return max(1, min(tiles, ceil_div(programs, columns)))


def is_wide(*tensors: Tensor) -> bool:
    """Return whether an image of any of the tensors reaches over 2³¹ elements, so that its offsets need 64 bits."""
    return any(extent(t.shape[1:], t.stride()[1:]) >= 2**31 for t in tensors)


def extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Return the distance from the first to the last element."""
    return sum((n - 1) * abs(s) for n, s in zip(size, stride, strict=True) if n > 0)


def refusals(tensors: Sequence[Tensor | None], programs: int, features: int = 0) -> Iterator[str]:
    """Yield each reason why the kernels can't serve a call; the plain form does then."""
    dtypes = {t.dtype for t in tensors if t is not None}
    if len(dtypes) > 1:
        yield f"tensors of several dtypes: {', '.join(sorted(map(str, dtypes)))}"
    elif not dtypes <= set(DTYPES):
        yield f"{dtypes.pop()}: the kernels compute in float32"
    if features > MAX_FEATURES:
        yield f"{features} reduced features: the kernels keep at most {MAX_FEATURES} in registers"
    if programs > MAX_PROGRAMS:
        yield f"{programs} programs: a launch has at most {MAX_PROGRAMS}"
    if any(t is not None and t.dim() > 3 and t.shape[-1] * t.shape[-2] >= 2**31 for t in tensors):
        yield "an image of 2³¹ pixels or more"
