"""Effective receptive fields: how much each input pixel affects the output at one position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import ExplainError
from .kernels import find_layer
from .style import bare, colour_bar, drawing, new_figure
from .subject import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# the colours span this many powers of ten
_DECADES = 3
# how much of the picture below the colours goes to the paper's colour
_FADED = 0.45


def receptive_field(network: nn.Module, images: Tensor, layer: str, position: tuple[int, int] | None = None) -> Tensor:
    """The effective receptive field of one position of a layer's output.

    ``mean over images of Σ_channels |∂(Σ_c out[c, i, j]) / ∂ input|``, after "Understanding the Effective Receptive
    Field in Deep Convolutional Neural Networks" (NeurIPS 2016). An involution's kernel depends on the input too,
    and both paths of the gradient count.

    Args:
        network: Runs in eval mode; its mode is restored afterwards.
        images: Input `[N, C, H, W]`.
        layer: Name of a module whose output is `[N, C, H_o, W_o]`.
        position: (row, column) in its output; by default the centre.

    Returns:
        `[H, W]`, scaled so that the largest value is 1 (all 0 if no gradient arrives).

    Raises:
        ExplainError: If there is no such module or position.

    Example:
        >>> conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        >>> field = receptive_field(torch.nn.Sequential(conv), torch.rand(1, 1, 7, 7), "0")
        >>> int((field > 0).sum())
        9
    """
    if layer not in dict(network.named_modules()):
        layer = find_layer(network, layer)
    total = torch.zeros(images.shape[2:], dtype=torch.float64)
    caught: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, args, output: caught.append(output))
    was_training = network.training
    try:
        network.eval()
        with torch.enable_grad():
            # one at a time, because few large images fit into memory
            for image in images.split(1):
                caught.clear()
                leaf = image.detach().clone().requires_grad_()
                network(leaf)
                row, column = _centre(caught[0], layer, position)
                (gradient,) = torch.autograd.grad(caught[0][0, :, row, column].sum(), leaf)
                total += gradient[0].abs().sum(0).double().cpu()
    finally:
        hook.remove()
        network.train(was_training)
    return (total / total.max().clamp(min=1e-300)).float()


def _centre(output: Tensor, layer: str, position: tuple[int, int] | None) -> tuple[int, int]:
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ExplainError(f"the output of {layer} is not a feature map [N, C, H, W]")
    rows, columns = output.shape[2:]
    row, column = position or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ExplainError(
            f"wanted a (row, column) in the output of {layer}, {rows} rows and {columns} columns; got {(row, column)}"
        )
    return row, column


def square_holding(field: Tensor, share: float) -> tuple[float, float, int]:
    """The smallest square around a field's centre of mass that holds a given share of it.

    Returns:
        (y, x) of its centre, and its side in pixels.

    Example:
        >>> square_holding(torch.nn.functional.pad(torch.ones(3, 3), (2, 2, 2, 2)), 0.9)
        (3.0, 3.0, 3)
    """
    total = field.sum().clamp(min=1e-30)
    rows, columns = torch.arange(field.shape[0]), torch.arange(field.shape[1])
    y = round(((field.sum(1) * rows).sum() / total).item())
    x = round(((field.sum(0) * columns).sum() / total).item())
    for half in range(max(field.shape)):
        inside = field[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1].sum()
        if inside >= share * total:
            break
    return float(y), float(x), 2 * half + 1


def receptive_field_figure(
    views: Sequence[View],
    layer: str,
    position: tuple[int, int] | None = None,
    *,
    images: Sequence[Tensor] | None = None,
    style: str = "light",
) -> Figure:
    """Draw the effective receptive field of one position, for one or several networks side by side.

    Args:
        views: Networks with a layer of this name, such as a RedNet and its twin, and the image.
        layer: Name of an involution of the first network, see `find_layer`, or of any module.
        position: (row, column) of the layer's output, by default the centre.
        images: For each view, inputs `[N, C, H, W]` to average over; by default just the view's image.
        style: light or dark.

    Raises:
        ExplainError: If there is no such layer, position or style.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 32, 32), name="RedNet-nano", untrained=True)
        >>> receptive_field_figure([view], "stage2.1").savefig("receptive-field.png")
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    first = views[0]
    if layer not in dict(first.network.named_modules()):
        layer = find_layer(first.network, layer)
    for view in views:
        if layer not in dict(view.network.named_modules()):
            raise ExplainError(
                f"{view.name} has no layer {layer!r}; compare networks that both have it, such as a RedNet and its twin"
            )
    inputs = [view.input for view in views] if images is None else images
    fields = [receptive_field(view.network, batch, layer, position) for view, batch in zip(views, inputs, strict=True)]
    with drawing(style) as look:
        aspect = first.size[0] / first.size[1]
        side = 3.1
        width, height = (len(views) + 1) * side + 1.3, side * aspect + 1.5
        many = f"mean of {len(inputs[0])} images" if len(inputs[0]) > 1 else "this image"
        where = "the centre" if position is None else f"row {position[0]}, column {position[1]}"
        figure = new_figure(
            width, height, "Effective receptive field", f"{layer}, {where} of its output; {many}",
            any(view.untrained for view in views), look, first.notes,
        )  # fmt: skip
        grid = figure.subplots(1, len(views) + 1, squeeze=False)[0]
        grid[0].imshow(first.picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
        grid[0].set_title("image" if len(inputs[0]) == 1 else "one of the images")
        # the second line of the others' titles
        grid[0].set_xlabel(" ")
        bare(grid[0])
        for axes, view, field in zip(grid[1:], views, fields, strict=True):
            shown = field.clamp(min=10.0**-_DECADES)
            # over the picture, which shows where little matters
            grey = view.picture if view.picture.ndim == 2 else view.picture.mean(2)
            faded = (1 - _FADED) * grey + _FADED * (1.0 if look.amount.endswith("_r") else 0.0)
            axes.imshow(faded.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
            cover = (1 + shown.log10() / _DECADES).clamp(0, 1).sqrt()
            drawn = axes.imshow(
                shown.numpy(),
                cmap=look.amount,
                norm=LogNorm(10.0**-_DECADES, 1),
                interpolation="none",
                alpha=(0.8 * cover).numpy(),
            )
            axes.set_title(view.name)
            bare(axes)
            y, x, square = square_holding(field, 0.9)
            corner = (x - square / 2, y - square / 2)
            axes.add_patch(
                Rectangle(corner, square, square, fill=False, edgecolor=look.ink, linewidth=1.6, linestyle="--")
            )
            axes.set_xlabel(f"90 % in {square}×{square} pixels", fontsize=12)
            axes.spines[:].set(visible=True, color=look.muted, linewidth=0.8)
        colour_bar(
            figure, drawn, list(grid), "gradient, largest = 1", look, shrink=0.9, aspect=20, pad=0.02, extend="min"
        )
    return figure
