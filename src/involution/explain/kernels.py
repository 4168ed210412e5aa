"""The kernels an involution generates for one image, as tensors and as matplotlib figures.

Shapes: G groups, K_h x K_w kernel taps, H_o x W_o output positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from involution.nn import Involution2d

from .errors import ExplainError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# zero is the neutral middle of this map: violet taps subtract, orange taps add
KERNEL_COLORS = "PuOr_r"


def involution_layers(model: nn.Module) -> list[str]:
    """Names of the 2-D involutions of a network, in the order in which it defines them."""
    return [name for name, module in model.named_modules() if isinstance(module, Involution2d)]


def find_layer(model: nn.Module, name: str) -> str:
    """The full name of an involution, found by that name or by a part of it between dots that is unique.

    The paper's names work too: "stage2.1" is "layer2.1", "stem" is "conv1".

    Args:
        model: A network with involutions.
        name: What to look for.

    Raises:
        ExplainError: If no involution has this name, or several have.

    Example:
        >>> from involution.models import rednet_nano
        >>> find_layer(rednet_nano(), "stage2.1"), find_layer(rednet_nano(), "stem")
        ('layer2.1.conv2', 'conv1.3')
    """
    from involution.data.errors import nearest

    layers = involution_layers(model)
    if name in layers:
        return name
    wanted = f".{name.replace('stage', 'layer').replace('stem', 'conv1')}."
    matches = [layer for layer in layers if wanted in f".{layer}."]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ExplainError(f"{name!r} matches several involutions: {', '.join(matches)}")
    raise ExplainError(
        f"wanted the name of an involution, one of {', '.join(layers) or '(none)'}; got {name!r}{nearest(name, layers)}"
    )


def generated_kernels(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """Run one image through a network and capture the kernels that an involution generates for it.

    Args:
        model: A network with involutions; it runs in eval mode and its mode is restored afterwards.
        image: Network input `[1, C, H, W]`, normalised as the network expects it.
        layer: One of `involution_layers(model)`; see `find_layer`.

    Returns:
        The kernel map `[G, K_h, K_w, H_o, W_o]`.

    Raises:
        ExplainError: If the layer is not an involution of this network, or the input is not exactly one image.
    """
    layer = find_layer(model, layer)
    if image.ndim != 4 or image.shape[0] != 1:
        raise ExplainError(f"wanted one image [1, C, H, W], got shape {list(image.shape)}")
    caught: list[Tensor] = []
    generator = model.get_submodule(layer).generator
    assert isinstance(generator, nn.Module)
    hook = generator.register_forward_hook(lambda module, args, output: caught.append(output.detach()))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(image)
    finally:
        hook.remove()
        model.train(was_training)
    return caught[0][0]


def kernel_mosaic(kernels: Tensor, group: int = 0) -> Tensor:
    """Lay out every kernel where it is used: a picture `[H_o * (K_h + 1) + 1, W_o * (K_w + 1) + 1]`.

    Tiles are separated by one pixel of NaN, which matplotlib leaves transparent.
    """
    _, k_h, k_w, h_o, w_o = kernels.shape
    tiles = torch.full((h_o, k_h + 1, w_o, k_w + 1), math.nan)
    tiles[:, 1:, :, 1:] = kernels[group].permute(2, 0, 3, 1)
    mosaic = torch.full((h_o * (k_h + 1) + 1, w_o * (k_w + 1) + 1), math.nan)
    mosaic[:-1, :-1] = tiles.reshape(h_o * (k_h + 1), w_o * (k_w + 1))
    return mosaic


def plot_kernels(
    image: Tensor,
    kernels: Tensor,
    positions: Sequence[tuple[int, int]],
    labels: Sequence[str] | None = None,
    colors: Any = KERNEL_COLORS,
) -> Figure:
    """Draw the kernels that one layer uses at some positions of an image.

    The image with the positions marked A, B, ..., then one row of tiles per group, one column per position. All
    tiles share one colour scale that is symmetric about zero, so that they can be compared.

    Args:
        image: The picture to mark the positions on: `[H, W]` or `[H, W, 3]`, values in 0..1.
        kernels: Kernel map `[G, K_h, K_w, H_o, W_o]`, for instance from `generated_kernels`.
        positions: (row, column) in the kernel map.
        labels: Names of the groups, "group 1", ... by default.
        colors: Colour map from negative to positive.
    """
    from matplotlib.figure import Figure

    groups, _, _, h_o, w_o = kernels.shape
    labels = labels or [f"group {group + 1}" for group in range(groups)]
    chosen = torch.stack([kernels[:, :, :, i, j] for i, j in positions], dim=1)
    limit = kernel_limit(chosen)
    figure = Figure(figsize=(4.6, 3.4 + 1.05 * groups), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.6, 0.8 + 1.05 * groups]).flat
    mark_positions(top.subplots(), image, positions, (h_o, w_o))
    tiles = bottom.subplots(groups, len(positions), squeeze=False)
    for group in range(groups):
        for column in range(len(positions)):
            drawn = draw_tile(tiles[group][column], chosen[group, column], limit, colors)
            if group == 0:
                tiles[group][column].set_title(chr(ord("A") + column), fontweight="bold")
        tiles[group][0].set_ylabel(labels[group])
    legend = bottom.colorbar(drawn, ax=tiles, orientation="horizontal", shrink=0.7, aspect=30)
    legend.set_label("kernel weight")
    return figure


def plot_mosaic(kernels: Tensor, group: int = 0, colors: Any = KERNEL_COLORS) -> Figure:
    """Draw every position's kernel in its place: the whole kernel map of one group in one picture."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.0), layout="constrained")
    axes = figure.subplots()
    drawn = draw_tile(axes, kernel_mosaic(kernels, group), kernel_limit(kernels[group]), colors)
    # the gaps between tiles are like a kernel of zeros
    axes.set_facecolor((matplotlib.colormaps[colors] if isinstance(colors, str) else colors)(0.5))
    legend = figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.7, aspect=30)
    legend.set_label("kernel weight")
    return figure


def kernel_limit(kernels: Tensor) -> float:
    """The end of a colour scale symmetric about zero; the largest 0.5 % may saturate."""
    return max(torch.quantile(kernels.abs().flatten().double(), 0.995).item(), 1e-12)


def draw_tile(axes: Axes, tile: Tensor, limit: float, colors: Any = KERNEL_COLORS) -> AxesImage:
    """Show a kernel (or a mosaic of them) without ticks, with zero at the middle colour."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes.imshow(tile.cpu().numpy(), cmap=colors, vmin=-limit, vmax=limit, interpolation="none")


def mark_positions(axes: Axes, image: Tensor, positions: Sequence[tuple[int, int]], map_size: tuple[int, int]) -> None:
    """Show an image and letter the given positions of a feature map on it."""
    height, width = image.shape[:2]
    axes.imshow(image.cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for index, (row, column) in enumerate(positions):
        # the centre of the image patch that this position of the (possibly coarser) map stands for
        y = (row + 0.5) * height / map_size[0] - 0.5
        x = (column + 0.5) * width / map_size[1] - 0.5
        axes.annotate(
            chr(ord("A") + index),
            (x, y),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            color="#1b1b1b",
            bbox={
                "boxstyle": "circle,pad=0.2",
                "facecolor": "#ffd54a",
                "edgecolor": "#1b1b1b",
                "linewidth": 0.8,
            },
        )
