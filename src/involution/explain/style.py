"""Two styles for pictures: on a light and on a dark background."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ExplainError
from .kernels import KERNEL_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Style:
    """Colours of a picture.

    Args:
        paper: Background.
        ink: Text.
        muted: Secondary text, ticks and frames.
        mark: Positions.
        mark_text: The same where it is written.
        fixed: What is a convolution's.
        outside: Where there is no image.
        warning: Warnings.
        signed: Diverging colour map whose middle is close to the background, so that zero disappears and both signs
            stand out: its name, or its colours from most negative to most positive.
        amount: Name of a perceptually uniform colour map that begins close to the background.
    """

    paper: str
    ink: str
    muted: str
    mark: str
    mark_text: str
    fixed: str
    outside: str
    warning: str
    signed: str | tuple[str, ...]
    amount: str

    @property
    def signed_map(self) -> Any:
        """`signed` as matplotlib expects it."""
        from matplotlib.colors import LinearSegmentedColormap

        if isinstance(self.signed, str):
            return self.signed
        return LinearSegmentedColormap.from_list("signed", self.signed)

    @property
    def signed_colours(self) -> Any:
        """The same as a function from places, 0 to 1, to colours."""
        import matplotlib

        return matplotlib.colormaps[self.signed] if isinstance(self.signed, str) else self.signed_map


_ON_DARK = ("#e3dcff", "#9d86f5", "#6248c4", "#1d1d26", "#bd6a12", "#f5a742", "#ffe7bd")
STYLES = {
    "light": Style(
        "#ffffff", "#1b1b1b", "#5f6368", "#ffd54a", "#8a6100", "#2f62c8", "#d4d6da", "#b3261e", KERNEL_COLORS, "magma_r"
    ),
    # as light far from zero as the light style's map is dark there
    "dark": Style(
        "#14151a", "#f1f1f1", "#a5a8ae", "#ffd54a", "#ffd54a", "#7fa6ff", "#3b3e46", "#ff8a80", _ON_DARK, "magma"
    ),
}


@contextmanager
def drawing(style: str) -> Iterator[Style]:
    """Use this style inside the block.

    Raises:
        ExplainError: If there is no such style.
    """
    import matplotlib

    if style not in STYLES:
        raise ExplainError(f"wanted the style {' or '.join(STYLES)}, got {style!r}")
    chosen = STYLES[style]
    settings: dict[Any, Any] = {
        "figure.facecolor": chosen.paper,
        "axes.facecolor": chosen.paper,
        "text.color": chosen.ink,
        "axes.titlecolor": chosen.ink,
        "axes.labelcolor": chosen.ink,
        "axes.edgecolor": chosen.muted,
        "xtick.color": chosen.muted,
        "ytick.color": chosen.muted,
        "xtick.labelcolor": chosen.ink,
        "ytick.labelcolor": chosen.ink,
        "font.size": 13,
        "axes.titlesize": 13,
        "figure.titlesize": 17,
        "figure.dpi": 100,
    }
    with matplotlib.rc_context(settings):
        yield chosen


def new_figure(
    width: float,
    height: float,
    title: str,
    subtitle: str,
    untrained: bool,
    style: Style,
    notes: Sequence[str] = (),
) -> Figure:
    """A figure with a title over a smaller line, a warning if the weights are random, and notes at its foot.

    Args:
        width: In inches.
        height: In inches, without the notes.
        title: What is shown.
        subtitle: Of what.
        untrained: Whether the weights are random.
        style: The colours.
        notes: Sentences that belong to the picture.
    """
    from matplotlib.figure import Figure

    lines = [line for note in notes for line in textwrap.wrap(note, max(40, int(width / 0.083)))]
    foot = 0.06 + (0.2 * len(lines) + 0.06 if lines else 0)
    height += foot - 0.06
    # the two lines take 0.75 inches together, whatever the size of the figure
    figure = Figure(figsize=(width, height), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, foot / height, 1, 1 - (0.78 + foot) / height), w_pad=0.06, h_pad=0.06)
    figure.text(0.16 / width, 1 - 0.14 / height, title, fontsize=17, fontweight="bold", va="top")
    figure.text(0.16 / width, 1 - 0.5 / height, subtitle, color=style.muted, va="top")
    for number, line in enumerate(lines):
        figure.text(
            0.16 / width, (foot - 0.06 - 0.2 * number) / height, line, fontsize=10.5, color=style.muted, va="top"
        )
    if untrained:
        figure.text(
            1 - 0.16 / width,
            1 - 0.16 / height,
            "UNTRAINED, RANDOM WEIGHTS",
            color=style.warning,
            fontweight="bold",
            ha="right",
            va="top",
        )
    return figure


def subfigures(figure: Figure, widths: list[float]) -> Any:
    """Subfigures side by side."""
    return figure.subfigures(1, len(widths), width_ratios=widths)


def bare(axes: Axes) -> None:
    """Hide ticks and frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def colour_bar(figure: Any, drawn: ScalarMappable, axes: Any, label: str, style: Style, **place: Any) -> Any:
    """A colour bar with its label."""
    bar = figure.colorbar(drawn, ax=axes, **place)
    bar.set_label(label)
    bar.outline.set_visible(False)
    # ticks may be created when drawn, after the style has been reset
    bar.ax.tick_params(color=style.muted, labelcolor=style.ink, labelsize=11)
    return bar
