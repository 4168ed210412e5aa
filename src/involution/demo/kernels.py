"""The report's pictures of generated filters: which images, layers and positions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from involution.demo.run import DemoResult
from involution.report import figures

if TYPE_CHECKING:
    from torch import Tensor

# two groups at the digits' own 8x8 pixels for the tiles; the stem, closest to the image, for the mosaics
TILE_LAYER, MOSAIC_LAYER = "layer2.1.conv2", "conv1.3"
# the finest with a 7×7 window, so that there is much to touch
TOUCH_LAYER = "layer1.1.conv2"
DIGITS = ("3", "0")


def kernel_pictures(result: DemoResult) -> dict[str, Any]:
    """The filters that the RedNet generates for two test images, next to the fixed ones of its twin."""
    from markupsafe import Markup

    from involution.engine import load
    from involution.explain import Subject
    from involution.explain.kernels import generated_kernels, plot_kernels, plot_mosaic
    from involution.explain.touch import touch_html, touch_layers

    rednet, twin = (model.runs[0].train.best for model in result.models)
    subjects = [Subject.from_checkpoint(path) for path in (rednet, twin)]
    views = [[subject.view(example_of(result, digit)) for subject in subjects] for digit in DIGITS]
    network, picture = subjects[0].network, views[0][0].picture
    tiles = generated_kernels(network, views[0][0].input, TILE_LAYER)
    shown = [view for view, _ in views]
    random = shown[0].with_random_weights()
    titles = [*(f"Filters made for a {digit}" for digit in DIGITS), f"A {DIGITS[0]}, random weights"]
    mosaics = [generated_kernels(view.network, view.input, MOSAIC_LAYER) for view in (*shown, random)]
    groups, k_h, k_w, h_o, w_o = tiles.shape
    places = notable_positions(picture, (h_o, w_o))
    weight = load(twin)[0].get_parameter(f"{TILE_LAYER}.weight").detach()
    # a convolution is a kernel map that is the same at every position
    fixed = torch.stack([weight[channel, channel] for channel in range(groups)])[..., None, None]
    scenes = [(f"a {digit}", view, other) for digit, (view, other) in zip(DIGITS, views, strict=True)]
    return {
        "touch": Markup(touch_html(scenes, touch_layers(network), TOUCH_LAYER)),
        "label": DIGITS[0],
        "layer": TILE_LAYER,
        "size": f"{k_h}×{k_w}",
        "groups": groups,
        "channels": weight.shape[0],
        "fixed_size": "×".join(str(side) for side in weight.shape[2:]),
        "fixed_count": f"{weight.shape[0] * weight.shape[1]:,}",
        "mosaic_layer": MOSAIC_LAYER,
        "tiles": figures.on_light_and_dark(
            lambda colors: plot_kernels(picture, tiles, places, colors=colors),
            "A digit with lettered positions, and the filters that the involution generates there",
        ),
        "fixed": figures.on_light_and_dark(
            lambda colors: plot_kernels(
                picture, fixed.expand(-1, -1, -1, h_o, w_o), places, [f"filter {i + 1}" for i in range(groups)], colors
            ),
            "The same digit and positions, and the convolution's filters, which are the same at all of them",
        ),
        "mosaics": [
            {
                "title": title,
                "svg": figures.on_light_and_dark(
                    partial(plot_mosaic, kernels, 0), f"{title}: those at every position, laid out like the image"
                ),
            }
            for title, kernels in zip(titles, mosaics, strict=True)
        ],
    }


def example_of(result: DemoResult, digit: str) -> str:
    """File of the first test image of a digit that the RedNet reads correctly, or of the first one if there is none."""
    files = [item.file for item in result.predictions if result.truth[item.file] == digit]
    right = (item.file for item in result.predictions if result.truth[item.file] == item.label == digit)
    return next(right, files[0])


def notable_positions(picture: Tensor, map_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Four informative positions of a bright figure on a dark background.

    Args:
        picture: Grey image `[H, W]`, values in 0..1.
        map_size: Size of the feature map whose positions are wanted.

    Returns:
        (row, column) of two positions on the stroke, far apart, one on its edge and one on the empty background.
    """
    ink = F.adaptive_avg_pool2d(picture[None], map_size)[0]
    grid = torch.cartesian_prod(torch.arange(map_size[0]), torch.arange(map_size[1]))

    def distance(places: Tensor) -> Tensor:
        return torch.cdist(grid.float(), places.float()).amin(1).reshape(map_size)

    def place(score: Tensor) -> Tensor:
        return grid[score.argmax()][None]

    stroke = place(ink)
    other = place((ink >= 0.6 * ink.max()) * distance(stroke))
    taken = torch.cat([stroke, other])
    slope = torch.stack(torch.gradient(ink)).norm(dim=0)
    edge = place(slope * (distance(taken) > 1.5))
    inked = grid[(ink > 0.1 * ink.max()).flatten()]
    empty = place(distance(inked))
    return [(int(row), int(column)) for row, column in torch.cat([taken, edge, empty]).tolist()]
