"""Pictures for talks: kernels on the image, and the paper's heat map of a whole layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .errors import ExplainError
from .kernels import draw_tile, kernel_limit
from .layer import LayerMap, layer_map, telling_positions
from .style import Style, bare, colour_bar, drawing, new_figure, subfigures
from .subject import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS, _MOST_MAPS = 4, 12
_LITTLE = "A map that looks like the image shows little, as kernels are made from what is there: "


def handsome(view: View) -> str:
    """What every heat map says of itself."""
    if view.untrained:
        return f"{_LITTLE}these weights are random."
    return f"{_LITTLE}the last map is what random weights make of it, in a colour scale of its own."


def kernels_figure(
    view: View,
    layer: str,
    positions: Sequence[tuple[int, int]] | None = None,
    *,
    groups: Sequence[int] | None = None,
    style: str = "light",
) -> Figure:
    """Draw the kernels that one layer generates at some positions, on the image and enlarged next to it.

    All tiles share one colour scale that is symmetric about zero. The dashed frame is the
    window that the first of them is applied to.

    Args:
        view: Network and image.
        layer: Name of an involution, see `find_layer`.
        positions: (row, column) in the layer's kernel map; by default four whose kernels differ most.
        groups: Which groups, starting at 0; by default the first four. The first of them is drawn on the image.
        style: light or dark.

    Raises:
        ExplainError: If there is no such layer, position, group or style.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 32, 32), name="RedNet-nano", untrained=True)
        >>> kernels_figure(view, "stage1.0", [(3, 3), (20, 9)]).savefig("kernels.png")
    """
    found = layer_map(view, layer)
    places = list(positions) if positions is not None else telling_positions(found)
    _check_positions(places, found)
    rows = chosen_groups(groups, found, _MOST_ROWS)
    limit = kernel_limit(torch.stack([found.kernels[rows, :, :, i, j] for i, j in places]))
    with drawing(style) as look:
        count, groups_shown = len(places), len(rows)
        tile = {1: 1.6, 2: 1.25}.get(groups_shown, 1.0)
        height = max(4.2, 1.5 + (tile + 0.1) * groups_shown + 0.9)
        width = (height - 1.2) + max(tile * count + 1.1, 3.6)
        figure = new_figure(
            width, height, f"Kernels that {found.name} generates", _about(view, found, rows), view.untrained, look,
            view.notes,
        )  # fmt: skip
        left, right = subfigures(figure, [height - 1.2, width - height + 1.2])
        axes = left.subplots()
        show_picture(axes, view)
        _tiles_on_picture(axes, view, found, places, rows[0], limit, look)
        _outline_window(axes, view, found, places[0], look)
        grid = right.subplots(groups_shown, count, squeeze=False)
        for line, group in enumerate(rows):
            for column, (i, j) in enumerate(places):
                drawn = draw_tile(grid[line][column], found.kernels[group, :, :, i, j], limit, look.signed_map)
                _frame(grid[line][column], look)
                if line == 0:
                    grid[line][column].set_title(f"{_letter(column)}\nrow {i}, col {j}", fontsize=11)
            grid[line][0].set_ylabel(f"group {group + 1}")
        colour_bar(right, drawn, grid, "kernel weight", look, orientation="horizontal", shrink=0.8, aspect=28, pad=0.04)
    return figure


def heat_map_figure(view: View, layer: str, *, groups: Sequence[int] | None = None, style: str = "light") -> Figure:
    """Draw the sum of the kernel at each position, one map per group, next to the image (paper, section 5).

    A map of the same network with random weights is the last one, in a colour scale of its own.

    Args:
        view: Network and image.
        layer: Name of an involution, see `find_layer`.
        groups: Which groups, starting at 0; by default the first twelve.
        style: light or dark.

    Raises:
        ExplainError: If there is no such layer, group or style.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 32, 32), name="RedNet-nano", untrained=True)
        >>> heat_map_figure(view, "stage2.1", style="dark").savefig("heatmap.png")
    """
    found = layer_map(view, layer)
    rows = chosen_groups(groups, found, _MOST_MAPS)
    maps = heat_map(found)[rows]
    limit = _limit(maps)
    panels = len(rows) + (1 if view.untrained else 2)
    with drawing(style) as look:
        columns = min(panels, 4 if panels <= 8 else 5)
        lines = math.ceil(panels / columns)
        side = 2.9 if columns <= 3 else 2.3
        aspect = view.size[0] / view.size[1]
        width = max(columns * (side + 0.1) + 1.1, 6.4)
        height = lines * (side * aspect + 0.4) + 1.0
        figure = new_figure(
            width, height, "Heat map: the sum of the kernel at each position", _about(view, found, rows),
            view.untrained, look, [*view.notes, handsome(view)],
        )  # fmt: skip
        grid = figure.subplots(lines, columns, squeeze=False).flat
        show_picture(grid[0], view)
        grid[0].set_title("image")
        for axes, group, values in zip(grid[1:], rows, maps, strict=False):
            drawn = draw_map(axes, view, found, values, limit, look)
            axes.set_title(f"group {group + 1}")
        if not view.untrained:
            draw_random(grid[panels - 1], view.with_random_weights(), layer, rows[0], look)
        for axes in grid[panels:]:
            axes.set_visible(False)
        colour_bar(figure, drawn, list(grid), "sum of the kernel's weights", look, shrink=0.85, aspect=22, pad=0.02)
    return figure


def draw_random(axes: Axes, random: View, layer: str, group: int, look: Style) -> None:
    """Draw the map of one group of a layer with random weights."""
    found = layer_map(random, layer)
    values = heat_map(found)[group]
    draw_map(axes, random, found, values, _limit(values), look)
    axes.set_title("random weights", color=look.warning)


def _limit(maps: torch.Tensor) -> float:
    return max(maps.abs().max().item(), 1e-12)


def draw_map(axes: Axes, view: View, found: LayerMap, values: torch.Tensor, limit: float, look: Style) -> Any:
    """Draw a map `[H_o, W_o]` of a layer as large as the image that it belongs to, in colours from -limit to limit."""
    height, width = view.size
    # each position covers a patch of the image; the last ones may be cut off at the edge
    extent = (-0.5, found.size[1] * found.stride[1] - 0.5, found.size[0] * found.stride[0] - 0.5, -0.5)
    drawn = axes.imshow(
        values.numpy(), cmap=look.signed_map, vmin=-limit, vmax=limit, interpolation="none", extent=extent
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    bare(axes)
    _frame(axes, look)
    return drawn


def heat_map(found: LayerMap) -> Any:
    """The sum of the kernel's weights at each position, per group: `[G, H_o, W_o]` (paper, section 5)."""
    return found.kernels.sum((1, 2))


def _check_positions(places: Sequence[tuple[int, int]], found: LayerMap) -> None:
    if not places:
        raise ExplainError("wanted 1 position or more, got none")
    if len(places) > 8:
        raise ExplainError(f"wanted at most 8 positions in one picture, got {len(places)}")
    for row, column in places:
        if not (0 <= row < found.size[0] and 0 <= column < found.size[1]):
            raise ExplainError(
                f"wanted a (row, column) in the map of {found.name}, {found.size[0]} rows and {found.size[1]} "
                f"columns; got {(row, column)}"
            )


def chosen_groups(groups: Sequence[int] | None, found: LayerMap, most: int) -> list[int]:
    """The groups of kernels to draw.

    Args:
        groups: which, starting at 0; None for the first ones.
        found: the layer.
        most: how many of them.

    Raises:
        ExplainError: if the layer does not have them.
    """
    count = found.kernels.shape[0]
    chosen = list(groups) if groups is not None else list(range(min(count, most)))
    wrong = [group for group in chosen if not 0 <= group < count]
    if wrong or not chosen:
        raise ExplainError(
            f"{found.name} has {count} group{'s' if count > 1 else ''} of kernels; "
            f"got group {', '.join(str(group + 1) for group in wrong) or '(none)'}"
        )
    return chosen


def _about(view: View, found: LayerMap, groups: Sequence[int]) -> str:
    count, k_h, k_w, h_o, w_o = found.kernels.shape
    left_out = "" if len(groups) == count else f", {len(groups)} of {count} groups"
    return f"{view.name}, {found.name}: {k_h}×{k_w} kernels at {h_o}×{w_o} positions{left_out}"


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def show_picture(axes: Axes, view: View) -> None:
    """Draw the image as the network sees it."""
    axes.imshow(view.picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    bare(axes)


def _frame(axes: Axes, look: Style) -> None:
    axes.spines[:].set(visible=True, color=look.muted, linewidth=0.8)


def _tiles_on_picture(
    axes: Axes, view: View, found: LayerMap, places: Sequence[tuple[int, int]], group: int, limit: float, look: Style
) -> None:
    """Draw each kernel where it was generated on the picture, with a letter."""
    from matplotlib.patches import Rectangle

    height, width = view.size
    middles = [found.middle(*place) for place in places]
    side = 0.19 * min(height, width)
    apart = [
        max(abs(first[0] - second[0]), abs(first[1] - second[1]))
        for index, first in enumerate(middles)
        for second in middles[:index]
    ]
    # shrink neighbours until they don't overlap, but keep them visible
    side = max(min([side, *(0.92 * gap for gap in apart)]), 0.07 * min(height, width))
    for index, ((y, x), (i, j)) in enumerate(zip(middles, places, strict=True)):
        box = (x - side / 2, x + side / 2, y + side / 2, y - side / 2)
        axes.imshow(
            found.kernels[group, :, :, i, j].numpy(),
            cmap=look.signed_map, vmin=-limit, vmax=limit, interpolation="none", extent=box, zorder=3,
        )  # fmt: skip
        corner = (box[0], box[3])
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor=look.mark, linewidth=2, zorder=4, clip_on=False)
        )
        axes.annotate(
            _letter(index), corner, ha="center", va="center", fontsize=10, fontweight="bold", color="#1b1b1b", zorder=5,
            bbox={"boxstyle": "circle,pad=0.18", "facecolor": look.mark, "edgecolor": "#1b1b1b", "linewidth": 0.8},
        )  # fmt: skip
    margin = side / 2
    # keep tiles at the picture's edge whole
    axes.set(
        xlim=(min(-0.5, min(x for _, x in middles) - margin), max(width - 0.5, max(x for _, x in middles) + margin)),
        ylim=(max(height - 0.5, max(y for y, _ in middles) + margin), min(-0.5, min(y for y, _ in middles) - margin)),
    )


def _outline_window(axes: Axes, view: View, found: LayerMap, place: tuple[int, int], look: Style) -> None:
    """Draw the window that the first position's kernel is applied to, at its true size, also out of the picture."""
    from matplotlib.patches import Rectangle

    top, left, height, width = found.window(*place)
    # dark below, so that it is seen on anything
    for colour, line, dashes in (("#1b1b1b", 3.4, "-"), (look.mark, 1.8, (0, (4, 2)))):
        outline = Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line, zorder=2)
        outline.set(linestyle=dashes, clip_on=False)
        axes.add_patch(outline)
    (low, high), (bottom, upper) = axes.get_xlim(), axes.get_ylim()
    more = max(view.size) / 80
    axes.set(
        xlim=(min(low, left - more), max(high, left + width + more)),
        ylim=(max(bottom, top + height + more), min(upper, top - more)),
    )
    across, down = _number(width), _number(height)
    axes.set_xlabel(f"dashed: window of A,\n{across}×{down} of {view.size[1]}×{view.size[0]} pixels", fontsize=11)
