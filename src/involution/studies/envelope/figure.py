"""Pictures of the study: accuracy against what it costs, a line for each family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.engine.files import atomic_path
from involution.studies.envelope.networks import CONVOLUTION, DEPTHWISE, LAST, NOT_LAST, REDNET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# column of the rows -> label of the axis, and what its values are multiplied with
_AXES = {
    "parameters": ("parameters, thousand", 1e-3),
    "macs": ("multiply-adds of an image, M", 1e-6),
    "p50_inference_ms": ("inference, ms an image", 1.0),
    "p50_training_ms": ("training, ms an image", 1.0),
}
SHORT = ("parameters", "p50_inference_ms")
"""Costs in the picture of README."""
# family -> colours on light and on dark, marker, width and kind of the line
_LOOKS: dict[str, tuple[str, str, str, float, str]] = {
    CONVOLUTION: ("#c8550b", "#f5a742", "s", 2.0, "-"),
    DEPTHWISE: ("#5a5a5a", "#b9bcc2", "^", 1.4, "-"),
    REDNET: ("#1f5fa8", "#6cb6ff", "o", 2.0, "-"),
    NOT_LAST: ("#3b8f5a", "#7fd6a0", "D", 1.4, "--"),
    LAST: ("#8a4fb0", "#cf9df0", "v", 1.4, "--"),
}


def figure(
    rows: Sequence[Mapping[str, Any]], style: str = "light", costs: Sequence[str] = tuple(_AXES)
) -> Figure | None:
    """Draw accuracy against costs.

    Args:
        rows: Of `table.rows`.
        style: ``light`` or ``dark``.
        costs: Which, by column.

    Returns:
        A row of panels for each cost, a column for each task; None where nothing was trained.
    """
    from matplotlib.figure import Figure

    from involution.explain.style import drawing

    known = [row for row in rows if "accuracy_mean" in row]
    costs = [key for key in costs if any(key in row for row in known)]
    if not known or not costs:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in known))
    with drawing(style) as colors:
        figure = Figure(figsize=(1 + 3.6 * len(tasks), 0.9 + 3.0 * len(costs)), layout="constrained")
        panels = figure.subplots(len(costs), len(tasks), squeeze=False, sharey="col")
        for row, key in enumerate(costs):
            for panel, task in zip(panels[row], tasks, strict=True):
                some = [one for one in known if one["task"] == task and key in one]
                _panel(panel, some, key, style == "dark", colors)
                if row == 0:
                    images = some[0]["train_images"] if some else ""
                    panel.set_title(f"{task}: {images} to learn from", fontsize=11, loc="left")
            panels[row][0].set_ylabel("test accuracy, %", fontsize=11)
        lines, names = panels[0][0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper center", ncols=3, frameon=False, fontsize=11)
        seeds = max(row["seeds"] for row in known)
        bars = f"bars: standard deviation of {seeds} seeds; " if seeds > 1 else ""
        figure.supxlabel(f"{bars}further left and up is better", fontsize=10, color=colors.muted)
    return figure


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]], key: str, dark: bool, colors: Any) -> None:
    """A line for each family over one cost."""
    label, scale = _AXES[key]
    for family, (on_light, on_dark, marker, width, kind) in _LOOKS.items():
        some = sorted((row for row in rows if row["family"] == family), key=lambda row: row[key])
        if not some:
            continue
        panel.errorbar(
            [row[key] * scale for row in some],
            [row["accuracy_mean"] for row in some],
            [row.get("accuracy_std") or 0 for row in some],
            label=family,
            color=on_dark if dark else on_light,
            marker=marker,
            ms=5,
            lw=width,
            ls=kind,
            capsize=2,
            elinewidth=0.9,
        )
    panel.set_xscale("log")
    ticks = _ticks([row[key] * scale for row in rows])
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.tick_params(labelsize=10)
    panel.set_xlabel(label, fontsize=11)
    panel.grid(color=colors.muted, alpha=0.25, lw=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten between the values."""
    if not values:
        return []
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    return [step for step in steps if min(values) <= step <= max(values)]


def write_pictures(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the picture of README on light and on dark, and return the files' names; none without accuracies."""
    files = []
    for style in ("light", "dark"):
        drawn = figure(rows, style, SHORT)
        if drawn is None:
            return []
        files.append(f"envelope-{style}.png")
        with atomic_path(folder / files[-1]) as temporary:
            drawn.savefig(temporary, format="png", dpi=100)
    return files
