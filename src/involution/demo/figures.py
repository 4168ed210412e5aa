"""The charts of the demo's report, as matplotlib figures and as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# placeholders unlike any real colour of a chart; to_svg turns each into a variable of the page's style sheet
INK, MUTED, INVOLUTION, CONVOLUTION, WRONG = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    INVOLUTION: "--involution",
    CONVOLUTION: "--convolution",
    WRONG: "--wrong",
}
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "involution",
}


def to_svg(draw: Callable[[], Figure], description: str) -> Markup:
    """Draw a figure in the page's colours and return it as an `<svg>` element that scales with its column.

    Args:
        draw: Makes the figure; called with the page's style active.
        description: What the picture shows, for those who can't see it.
    """
    import matplotlib
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        # a fixed date makes equal runs write equal files
        draw().savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    # the page holds several of these: group names would repeat, and the size comes from the column
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    tag = rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1 role="img" aria-label="{escape(description)}">'
    # matplotlib escapes the texts of its charts
    return Markup(re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', tag, svg, count=1))


def learning_curves(
    curves: dict[str, Tensor],
    colors: Sequence[str],
    label: str,
    percent: bool = False,
    low: float | None = None,
) -> Figure:
    """Draw one value per epoch for each model: mean over the seeds, and the range they span.

    Args:
        curves: By model, values `[seeds, epochs]`.
        colors: One per model.
        label: Of the vertical axis, with its unit.
        percent: Values are shares, shown in %.
        low: Where the vertical axis begins.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(curves.items(), colors, strict=True):
        values = values * 100 if percent else values
        epochs = range(1, values.shape[1] + 1)
        if values.shape[0] > 1:
            axes.fill_between(epochs, values.amin(0).tolist(), values.amax(0).tolist(), color=color, alpha=0.18, lw=0)
        marker = "o" if values.shape[1] == 1 else None
        axes.plot(epochs, values.mean(0).tolist(), color=color, lw=2, marker=marker, label=name)
    axes.set(xlabel="epoch", ylabel=label)
    if len(epochs) > 1:
        axes.set_xlim(1, len(epochs))
    axes.set_ylim(bottom=low, top=100 if percent else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="lower right" if percent else "upper right")
    return figure


def confusion_matrix(counts: Tensor, classes: Sequence[str], color: str, error_color: str) -> Figure:
    """Draw counts `[true class, predicted class]`, with mistakes in a separate colour."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axes = figure.subplots()
    size = len(classes)
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for true in range(size):
        for predicted in range(size):
            if not (count := int(counts[true, predicted])):
                continue
            right = true == predicted
            # even a single mistake must be visible
            alpha = 0.45 * share[true, predicted].item() if right else 0.35 + 0.5 * share[true, predicted].item()
            cell = Rectangle(
                (predicted - 0.5, true - 0.5), 1, 1, facecolor=color if right else error_color, alpha=alpha
            )
            axes.add_patch(cell)
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize=10)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(size), classes)
    axes.set_yticks(range(size), classes)
    axes.set(xlabel="predicted digit", ylabel="true digit")
    axes.tick_params(length=0)
    return figure
