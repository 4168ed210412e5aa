"""How many outputs a tile has in which layer, as measured in onnxruntime: ``python benchmarks/onnx_tiles.py``."""

from collections.abc import Sequence
from math import gcd, log

# (outputs per side, stride, kernel) -> tile, on an AMD EPYC (Zen 4) with onnxruntime 1.32; (vertical, horizontal)
TILES: dict[tuple[int, int, int], tuple[int, int]] = {
    (112, 1, 3): (3, 4),
    (56, 1, 7): (4, 4),
    (28, 1, 7): (2, 4),
    (28, 2, 7): (2, 4),
    (14, 1, 7): (2, 7),
    (14, 2, 7): (2, 2),
    (7, 1, 7): (1, 7),
    (7, 2, 7): (1, 7),
}
# for a size that is not known
_USUAL = 28


def step_of(stride: int, dilation: int) -> int:
    """Return the distance of the next output that reads from the same lattice of inputs."""
    return dilation // gcd(stride, dilation)


def choose_tile(
    size: Sequence[int | None],
    stride: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[int] | None = None,
) -> tuple[int, int]:
    """Return the tile of the measured layer that is most like this one, made to fit its size.

    Args:
        size: outputs (vertical, horizontal), None where it is open.
        stride: (vertical, horizontal).
        kernel: its size, (vertical, horizontal).
        dilation: (vertical, horizontal).
        wanted: a tile to take instead of a measured one.
    """
    side = [_USUAL if one is None else max(1, one) for one in size]
    layer = (side[0] * side[1]) ** 0.5, max(stride), (kernel[0] * kernel[1]) ** 0.5

    def distance(measured: tuple[int, int, int]) -> float:
        return sum(abs(log(a / b)) for a, b in zip(measured, layer, strict=True))

    tile = wanted or TILES[min(TILES, key=distance)]
    height, width = (_fitted(tile[i], size[i], step_of(stride[i], dilation[i])) for i in (0, 1))
    return height, width


def _fitted(tile: int, size: int | None, step: int) -> int:
    # as many tiles as before, but none that is nearly empty: 9 outputs are 3·3 rather than 4 + 4 + 1
    if size is None:
        return tile if step <= tile else 1
    count = max(1, -(-size // step))
    return -(-count // -(-count // tile))
