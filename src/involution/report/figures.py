"""The charts of reports, as matplotlib figures and as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
# letters of a class name, and classes up to which a matrix says how many
_LONGEST, _WRITTEN = 18, 20
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
    # a class may have a dollar in its name
    "text.parse_math": False,
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
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # the browser draws the letters that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
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


def on_light_and_dark(draw: Callable[[Any], Figure], description: str) -> Markup:
    """Draw a figure of signed values twice; the style sheet shows the one that fits the page.

    Args:
        draw: Makes the figure, given a colour map.
        description: What the picture shows, for those who can't see it.
    """
    from markupsafe import Markup

    from involution.explain.style import STYLES

    drawn = [
        Markup('<div class="on-{}">{}</div>').format(name, to_svg(partial(draw, look.signed_map), description))
        for name, look in STYLES.items()
    ]
    return Markup("").join(drawn)


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
    else:
        axes.set_xlim(0.5, 1.5)
    axes.set_ylim(bottom=low, top=100 if percent else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="best")
    return figure


def confusion_matrix(
    counts: Tensor, classes: Sequence[str], color: str, error_color: str, *, what: str = "class", shares: bool = False
) -> Figure:
    """Draw counts `[true class, predicted class]`, with mistakes in a separate colour.

    Args:
        counts: Of images or pixels.
        classes: Names; long ones are cut.
        color: Of the diagonal.
        error_color: Of the mistakes.
        what: What a class is called on the axes.
        shares: Write the share of each row in %, instead of counts.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    size = len(classes)
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes]
    longest = max(map(len, names))
    room = 0.07 * longest if longest > 3 else 0.0
    side = max(4.3, 0.26 * size + 1.2)
    figure = Figure(figsize=(side + 0.3 + room, side + room), layout="constrained")
    axes = figure.subplots()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for true in range(size):
        for predicted in range(size):
            if not (count := int(counts[true, predicted])):
                continue
            right, part = true == predicted, share[true, predicted].item()
            # even a single mistake must be visible
            alpha = 0.45 * part if right else 0.35 + 0.5 * part
            if shares and not right:
                alpha = 0.85 * part
            cell = Rectangle(
                (predicted - 0.5, true - 0.5), 1, 1, facecolor=color if right else error_color, alpha=alpha
            )
            axes.add_patch(cell)
            text = f"{100 * part:.0f}" if shares else str(count)
            if size <= _WRITTEN and text != "0":
                axes.text(predicted, true, text, ha="center", va="center", fontsize=10 if size <= 12 else 8)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(size), names, rotation=90 if longest > 3 else 0)
    axes.set_yticks(range(size), names)
    axes.set(xlabel=f"predicted {what}", ylabel=f"true {what}")
    axes.tick_params(length=0)
    return figure


def precision_recall(precision: Sequence[float], color: str) -> Figure:
    """Draw precision over recall, both in %, from the precision at the recalls 0, 0.01, …, 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    recalls = [100 * place / (len(precision) - 1) for place in range(len(precision))]
    values = [100 * value for value in precision]
    axes.fill_between(recalls, values, color=color, alpha=0.18, lw=0)
    axes.plot(recalls, values, color=color, lw=2)
    axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 100), ylim=(0, 102))
    axes.grid()
    return figure


def heat_map(picture: Tensor, trained: Tensor, random: Tensor, colors: Any) -> Figure:
    """Draw two maps `[H_o, W_o]` in a map of colours beside the picture `[H, W]` or `[H, W, 3]` that they belong to.

    Args:
        picture: Values in 0..1.
        trained: Of the network.
        random: Of the same network with random weights, drawn in a scale of its own.
        colors: Colour map from negative to positive.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    first, *others = panels = figure.subplots(1, 3)
    first.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    drawn = []
    for axes, values in zip(others, (trained, random), strict=True):
        limit = max(values.abs().max().item(), 1e-12)
        drawn.append(axes.imshow(values.numpy(), cmap=colors, vmin=-limit, vmax=limit, interpolation="none"))
    for axes, title in zip(panels, ("image", "trained", "random weights"), strict=True):
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        axes.spines[:].set_visible(False)
    figure.colorbar(drawn[0], ax=list(panels), orientation="horizontal", shrink=0.7, aspect=30).set_label(
        "sum of the trained filter"
    )
    return figure
