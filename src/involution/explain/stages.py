"""The paper's figure of heat maps for a whole network: one row for each stage."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from .errors import ExplainError
from .figures import draw_map, draw_random, handsome, heat_map, show_picture
from .kernels import involution_layers
from .layer import layer_map
from .style import colour_bar, drawing, new_figure
from .subject import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_MAPS = 4


def stage_layers(network: nn.Module) -> dict[int, str]:
    """The last involution of each stage of a network that names its stages layer1, layer2, ..., by number.

    Example:
        >>> from involution.models import rednet_nano
        >>> stage_layers(rednet_nano())
        {1: 'layer1.1.conv2', 2: 'layer2.1.conv2', 3: 'layer3.1.conv2'}
    """
    places = [(re.search(r"(?:^|\.)layer(\d)\.", name), name) for name in involution_layers(network)]
    return {int(found[1]): name for found, name in places if found}


def stages_figure(view: View, *, style: str = "light") -> Figure:
    """Draw the heat maps of the last involution in each stage, a row for each stage, next to the image.

    A heat map is the sum of the kernel's weights at each position (paper, section 5). Each row has its own colour
    scale, symmetric about zero, and shows the first four groups of kernels; its last map is that of the same network
    with random weights, in a scale of its own.

    Args:
        view: Network and image.
        style: light or dark.

    Raises:
        ExplainError: If the network has no stages with involutions, or there is no such style.

    Example:
        >>> import torch
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 32, 32), name="RedNet-nano", untrained=True)
        >>> stages_figure(view).savefig("stages.png")
    """
    layers = stage_layers(view.network)
    if not layers:
        raise ExplainError(f"{view.name} has no stages of involutions; draw one layer, --what heatmap --layer NAME")
    maps = {stage: layer_map(view, name) for stage, name in layers.items()}
    shown = min(_MOST_MAPS, max(len(found.kernels) for found in maps.values()))
    random = None if view.untrained else view.with_random_weights()
    columns = 1 + shown + (random is not None)
    with drawing(style) as look:
        side, aspect = 2.0, view.size[0] / view.size[1]
        figure = new_figure(
            max(columns * (side + 0.1) + 1.4, 6.4),
            len(maps) * (side * aspect + 0.35) + 1.0,
            "Heat maps of every stage: the sum of the kernel at each position",
            f"{view.name}: last involution of each stage, up to {shown} groups of kernels",
            view.untrained,
            look,
            [*view.notes, handsome(view)],
        )
        grid = figure.subplots(len(maps), columns, squeeze=False)
        titled = 0
        for line, (stage, found) in zip(grid, maps.items(), strict=True):
            values = heat_map(found)[:shown]
            limit = max(values.abs().max().item(), 1e-12)
            show_picture(line[0], view)
            line[0].set_ylabel(f"stage {stage}")
            for group, axes in enumerate(line[1 : 1 + shown]):
                if group < len(values):
                    drawn = draw_map(axes, view, found, values[group], limit, look)
                    if group >= titled:
                        axes.set_title(f"group {group + 1}")
                else:
                    axes.set_axis_off()
            titled = max(titled, len(values))
            if random is not None:
                draw_random(line[-1], random, found.name, 0, look)
            label = f"sum, {found.size[0]}×{found.size[1]} positions"
            colour_bar(figure, drawn, list(line), label, look, shrink=0.85, aspect=14, pad=0.01)
        grid[0][0].set_title("image")
        for line in grid[1:]:
            line[-1].set_title("")
    return figure
