"""Involution out of ONNX's standard operators, as products with band matrices.

The outputs are cut into tiles of ``T = T_y·T_x``; those of a tile read from one window of ``L = L_y·L_x`` positions.
For a tile and a group of c channels, involution is the product ``[T, L] × [L, c]`` of a band matrix, which has the
generated kernel of each output at the places that this output reads and zeros elsewhere, and the window. Per output and
group that is L values and L·c/T of a window, where im2col would copy K·K·c.

The band matrices need no scattering. A product with a constant writes them, one for each place in a tile, which either
spreads a map ``[K·K]`` over a row of the band (`_spread`) or is the generator's last layer laid out like that
(`_placed`). The places come first in it, ``[T, M, L]``, and MatMul wants ``[M, T, L]``; the Transpose between them is
done by onnxruntime within its product, without a copy.

Sizes that aren't known are numbers that the graph computes, so one decomposition serves fixed and open sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from involution.export.onnx_nodes import Ints, Nodes
from involution.export.onnx_tiles import step_of

# constants of more bytes than this cost more to read than they save in products
_LARGEST = 2 * 2**20


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis.

    With a dilation d, the outputs of a tile are those that read from the same lattice: each ``step``-th. Positions in
    the input count from 1, because one zero is put on either side; what lies further outside reads that one.

    Attributes:
        nodes: where integers are written.
        size, out: number of inputs and of outputs.
        kernel, stride, padding, dilation: the geometry; padding is the leading one.
        tile: outputs of a tile.
    """

    nodes: Nodes
    size: Ints
    out: Ints
    kernel: int
    stride: int
    padding: int
    dilation: int
    tile: int

    @property
    def step(self) -> int:
        """Distance of a tile's outputs."""
        return 1 if self.tile == 1 else step_of(self.stride, self.dilation)

    @property
    def pitch(self) -> int:
        """Distance in the window between what two neighbours in a tile read."""
        return self.stride // gcd(self.stride, self.dilation)

    @property
    def window(self) -> int:
        """Length of a window."""
        return (self.tile - 1) * self.pitch + self.kernel

    @cached_property
    def count(self) -> Ints:
        """Number of tiles."""
        whole = self.step * self.tile
        return (self.out + (whole - 1)) // whole * self.step

    @cached_property
    def first(self) -> Ints:
        """The first output of each tile."""
        tiles = self.nodes.arange(self.count)
        return tiles // self.step * (self.step * self.tile) + tiles % self.step

    @cached_property
    def outputs(self) -> Ints:
        """The outputs of each tile, ``[count, tile]``; at the end the last one is repeated."""
        places = self.nodes.ints(np.arange(self.tile) * self.step)
        return (self.first.along(0, 2) + places.along(1, 2)).at_most(self.out - 1)

    @cached_property
    def reads(self) -> Ints:
        """The positions of each window, ``[count, window]``."""
        offsets = self.nodes.ints(np.arange(self.window) * self.dilation + (1 - self.padding))
        return (self.first.along(0, 2) * self.stride + offsets.along(1, 2)).at_least(0).at_most(self.size + 1)

    @cached_property
    def tile_of(self) -> Ints:
        """The tile of each output, ``[out]``."""
        outputs = self.nodes.arange(self.out)
        return outputs // (self.step * self.tile) * self.step + outputs % self.step

    @cached_property
    def place_of(self) -> Ints:
        """The place of each output in its tile, ``[out]``."""
        return self.nodes.arange(self.out) // self.step % self.tile


@dataclass(frozen=True)
class Bands:
    """One involution in tiles.

    Attributes:
        nodes: where it is written.
        y, x: the axes.
        groups, channels: G and C.
        dtype: of all tensors.
    """

    nodes: Nodes
    y: Axis
    x: Axis
    groups: int
    channels: int
    dtype: np.dtype

    @property
    def places(self) -> int:
        """Outputs of a tile, T."""
        return self.y.tile * self.x.tile

    @property
    def taps(self) -> int:
        """Taps of a kernel."""
        return self.y.kernel * self.x.kernel

    @property
    def length(self) -> int:
        """Positions of a window, L."""
        return self.y.window * self.x.window

    def apply(self, x: str, bands: str) -> str:
        """Multiply band matrices ``[T, N·tiles·G, L]`` and windows of ``x [N, H, W, C]`` to ``[N, H_o, W_o, C]``."""
        out = self.nodes.op("MatMul", self.nodes.transpose(bands, 1, 0, 2), self._windows(x))
        return self._assembled(out)

    def from_map(self, kernels: str) -> str:
        """Make band matrices of a map ``[N, H_o, W_o, G·K·K]``."""
        rows = self._rows(kernels, self.groups * self.taps)
        return self._spread(self.nodes.reshape(rows, self.places, -1, self.taps))

    def from_features(self, reduced: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """Make band matrices of ``reduced [N, H_o, W_o, R]``, ``weight [G, K_h, K_w, R]``, ``bias [G, K_h, K_w]``."""
        width = weight.shape[-1]
        rows = width + (bias is not None)
        is_small = self.places * rows * self.groups * self.length * weight.itemsize <= _LARGEST
        if is_small and rows * self.length <= self.taps * (width + self.length):
            return self._placed(reduced, weight, bias)
        nodes = self.nodes
        flat = nodes.reshape(self._rows(reduced, width), -1, width)
        kernels = nodes.op("MatMul", flat, np.ascontiguousarray(weight.reshape(-1, width).T))
        if bias is not None:
            kernels = nodes.op("Add", kernels, bias.ravel())
        return self._spread(nodes.reshape(kernels, self.places, -1, self.taps))

    def _placed(self, reduced: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        # the bias is one more row, for a feature that is always 1
        width = weight.shape[-1]
        weight = weight.reshape(self.groups, self.taps, width)
        if bias is not None:
            one = np.array(1, weight.dtype)
            reduced = self.nodes.op("Pad", reduced, np.array([0] * 7 + [1], np.int64), one)
            weight = np.concatenate([weight, bias.reshape(self.groups, self.taps, 1)], axis=2)
            width += 1
        bands = np.zeros((self.places, width, self.groups, self.length), weight.dtype)
        for place, columns in enumerate(self._columns):
            bands[place][..., columns] = weight.transpose(2, 0, 1)
        flat = bands.reshape(self.places, width, self.groups * self.length)
        product = self.nodes.op("MatMul", self._rows(reduced, width), flat)
        return self.nodes.reshape(product, self.places, -1, self.length)

    def _spread(self, kernels: str) -> str:
        # [T, M, K·K] to [T, M, L]
        ones = np.zeros((self.places, self.taps, self.length), self.dtype)
        for place, columns in enumerate(self._columns):
            ones[place, np.arange(self.taps), columns] = 1
        return self.nodes.op("MatMul", kernels, ones)

    @cached_property
    def _columns(self) -> np.ndarray:
        # [T, K·K]: the place in the window of each tap of each output
        def offsets(axis: Axis) -> np.ndarray:
            return np.arange(axis.tile)[:, None] * axis.pitch + np.arange(axis.kernel)

        y, x = offsets(self.y)[:, None, :, None], offsets(self.x)[None, :, None, :]
        return (y * self.x.window + x).reshape(self.places, self.taps)

    def _rows(self, features: str, width: int) -> str:
        # [N, H_o, W_o, F] to [T, N·tiles, F]
        y, x = self.y.outputs, self.x.outputs
        index = _turned(y).reshape(self.y.tile, 1, -1, 1) * self.x.out + _turned(x).reshape(1, self.x.tile, 1, -1)
        rows = self.nodes.gather(self.nodes.reshape(features, 0, self.y.out * self.x.out, width), index, axis=1)
        tiles = self.y.count * self.x.count
        rows = self.nodes.transpose(self.nodes.reshape(rows, 0, self.places, tiles, width), 1, 0, 2, 3)
        return self.nodes.reshape(rows, self.places, -1, width)

    def _windows(self, x: str) -> str:
        # [N, H, W, C] to [N·tiles·G, L, c], first along x, then whole rows of windows along y
        nodes, depth = self.nodes, self.channels // self.groups
        groups = nodes.arange(self.groups)
        x = nodes.op("Pad", x, np.array([0, 1, 1, 0] * 2, np.int64))
        x = nodes.reshape(x, 0, 0, (self.x.size + 2) * self.groups, depth)
        index = self.x.reads.reshape(-1, 1, self.x.window) * self.groups + groups.along(1, 3)
        count = (self.y.size + 2) * self.x.count * self.groups
        x = nodes.reshape(nodes.gather(x, index, axis=2), 0, count, self.x.window * depth)
        tiles = nodes.arange(self.x.count)
        index = self.y.reads.reshape(-1, 1, 1, self.y.window) * self.x.count + tiles.along(1, 4)
        index = index * self.groups + groups.along(2, 4)
        return nodes.reshape(nodes.gather(x, index, axis=1), -1, self.length, depth)

    def _assembled(self, out: str) -> str:
        # [N·tiles·G, T, c] to [N, H_o, W_o, C]
        nodes, depth = self.nodes, self.channels // self.groups
        y = self.y.tile_of * self.x.count * (self.groups * self.places) + self.y.place_of * self.x.tile
        x = self.x.tile_of * (self.groups * self.places) + self.x.place_of
        index = y.along(0, 3) + x.along(1, 3) + nodes.arange(self.groups).along(2, 3) * self.places
        rows = nodes.reshape(out, -1, self.y.count * self.x.count * (self.groups * self.places), depth)
        return nodes.reshape(nodes.gather(rows, index, axis=1), -1, self.y.out, self.x.out, self.channels)


def _turned(places: Ints) -> Ints:
    # [count, tile] to [tile, count]
    if places.known is not None:
        return places.nodes.ints(places.known.T)
    return Ints(places.nodes, places.nodes.transpose(places.name, 1, 0))
