"""The launches' arithmetic, for sizes that no test can hold."""

import pytest
import torch

from involution.ops.triton import launch
from involution.ops.triton.launch import Tile


@pytest.mark.parametrize(("size", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (16, 16), (17, 32)])
def test_power_of_two(size, power):
    assert launch.power_of_two(size) == power


@pytest.mark.parametrize("shipped", launch.CONFIGS, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 16, 17, 64])
@pytest.mark.parametrize("group_width", [1, 3, 8, 16, 40, 64, 500])
def test_tiles_cover_all_and_are_powers_of_two(shipped, groups, group_width):
    config = launch.CONFIGS[shipped]
    pixels = 57 * 43
    fused = shipped[0].startswith("dynamic")
    if fused:
        tiles = [launch.fused_tile(config, groups, group_width, features) for features in (4, 200)]
    else:
        tiles = [launch.tile(config, taps, pixels, groups, group_width) for taps in (1, 9, 49)]
    for tile in tiles:
        for size in (tile.pixels, tile.groups, tile.channels, tile.taps):
            assert size & (size - 1) == 0
            assert size > 0
        blocks = launch.blocks(tile, pixels, groups, group_width)
        assert blocks.pixels * tile.pixels >= pixels > (blocks.pixels - 1) * tile.pixels
        assert blocks.groups * tile.groups >= groups > (blocks.groups - 1) * tile.groups
        assert blocks.channels * tile.channels >= group_width > (blocks.channels - 1) * tile.channels
        if fused:
            # rows and columns of a matrix product
            assert tile.pixels >= 16
            assert tile.groups * tile.taps <= 16


def test_few_groups_take_more_taps():
    config = launch.CONFIGS["dynamic_forward", 2]
    assert launch.fused_tile(config, 1, 16, 16) == Tile(32, 1, 16, 16)
    assert launch.fused_tile(config, 4, 16, 16) == launch.fused_tile(config, 64, 16, 128) == Tile(32, 4, 16, 4)
    assert launch.fused_tile(config, 64, 16, 256) == Tile(16, 4, 16, 4)
    # each tap with features of its own
    assert launch.fused_tile(launch.CONFIGS["dynamic_grad_input", 2], 4, 16, 16) == Tile(64, 4, 16, 1)


def test_offsets_over_31_bits_are_wide():
    # expanded and meta tensors: no memory
    assert not launch.is_wide(torch.empty(4, 8, 16384, 16384, device="meta")[:, :7])
    assert launch.is_wide(torch.empty(1, 8, 16384, 16385, device="meta"))
    # the distance between images does not count: it is 64 bits wide always
    assert not launch.is_wide(torch.empty(9, 4, 16384, 16384, device="meta"))
    # two channels far apart
    assert launch.is_wide(torch.empty(1, 3, 2**15, 2**15, device="meta")[:, ::2])


def test_extent():
    assert launch.extent((3, 4), (10, 2)) == 26
    assert launch.extent((1, 1), (10**12, 5)) == 0


def test_too_many_programs_or_pixels_are_refused():
    x = torch.empty(1, 1, 2, 2)
    assert not list(launch.refusals((x, None), launch.MAX_PROGRAMS))
    assert "a launch has at most 2147483647" in next(launch.refusals((x,), launch.MAX_PROGRAMS + 1))
    huge = torch.empty(1, 1, 2**16, 2**15, device="meta")
    assert list(launch.refusals((huge,), 1)) == ["an image of 2³¹ pixels or more"]


def test_mixed_dtypes_are_refused():
    x = torch.empty(1, 1, 2, 2)
    assert next(launch.refusals((x, x.half()), 1)) == "tensors with different dtypes: torch.float16, torch.float32"


@pytest.mark.parametrize(("tiles", "columns"), [(1, 1), (5, 1), (10_000, 4), (10_000, 5000), (7, 300)])
def test_splits(tiles, columns):
    splits = launch.splits(tiles, columns)
    assert 1 <= splits <= tiles
    assert (splits - 1) * columns < 1024
