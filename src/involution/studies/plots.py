"""Plots of the studies, as matplotlib figures: dark on light, whatever the user's own style is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.engine.files import atomic_path
from involution.studies.origin import machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from involution.studies.ablation_table import Separation
    from involution.studies.bench_table import Limit

# blue and orange differ for every kind of colour vision, and in grey
_BLUE, _ORANGE, _GREEN, _GREY = "#1f5fa8", "#c8550b", "#3b8f5a", "#5a5a5a"
_STYLE: dict[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "xtick.color": "#1a1a1a",
    "ytick.color": "#1a1a1a",
    "axes.edgecolor": "#8a8a8a",
    "font.size": 10,
}


def accuracy_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the published accuracy of the classifiers against what they cost.

    Args:
        rows: Of `cost_table.all_rows`.

    Returns:
        A panel each for parameters, multiply-adds, and the time of an image at each batch size that was measured; None
        where no accuracy is known.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    known = [row for row in rows if "published_top1" in row]
    if not known:
        return None
    once = list({row["model"]: row for row in known}.values())
    size = f"{once[0]['height']}×{once[0]['width']}"
    panels = [
        ("parameters, M", once, "parameters", 1e-6),
        (f"multiply-adds of an image ({size}), G", once, "macs", 1e-9),
    ]
    for batch in dict.fromkeys(row["batch"] for row in known if "p50_ms" in row):
        timed = [row for row in known if row.get("batch") == batch and "p50_ms" in row]
        panels.append((f"measured time of an image, ms (batch {batch})", timed, "p50_ms", 1 / batch))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.1 * len(panels), 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (label, some, key, scale) in zip(axes, panels, strict=True):
            for family, style in _FAMILIES.items():
                _line(axis, [row for row in some if _family(row["model"]) == family], key, scale, family, style)
            axis.set_xlabel(label)
            # room for the labels
            axis.set_xlim(0, 1.12 * max(row[key] * scale for row in some))
            axis.margins(y=0.12)
        axes[0].set_ylabel("published top-1 on ImageNet, %")
        lines, names = axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper center", ncols=len(names), frameon=False)
        timed = [row for row in known if "p50_ms" in row]
        if timed:
            figure.supxlabel(_where(timed[0]), fontsize=8, color=_GREY)
    return figure


# name in the legend -> how it looks, and on which side of their points the labels stand
_FAMILIES: dict[str, tuple[dict[str, Any], bool]] = {
    "RedNet": ({"color": _BLUE, "marker": "o", "lw": 2}, True),
    "ResNet (convolution twin)": ({"color": _ORANGE, "marker": "s", "lw": 2}, False),
    "torchvision's ResNet-50": ({"color": _GREY, "marker": "D", "lw": 0, "mfc": "none"}, False),
}


def _family(model: str) -> str:
    red, twin, other = _FAMILIES
    return other if model == "resnet50" else twin if model.endswith("_conv") else red


def _line(
    axis: Any, rows: list[Mapping[str, Any]], key: str, scale: float, name: str, look: tuple[dict[str, Any], bool]
) -> None:
    if not rows:
        return
    style, above = look
    rows = sorted(rows, key=lambda row: row["published_top1"])
    x, y = [row[key] * scale for row in rows], [row["published_top1"] for row in rows]
    if key == "p50_ms":
        spread = [[row["p50_ms"] - row["p20_ms"] for row in rows], [row["p80_ms"] - row["p50_ms"] for row in rows]]
        errors = [[value * scale for value in side] for side in spread]
        axis.errorbar(x, y, xerr=errors, label=name, capsize=2, elinewidth=1, **style)
    else:
        axis.plot(x, y, label=name, **style)
    if style["lw"]:
        for row, at in zip(rows, zip(x, y, strict=True), strict=True):
            depth = row["model"].removeprefix("rednet").removesuffix("_conv")
            # RedNet's points lie above and left of its twins': their labels go to the free side
            offset, align = ((-6, 5), "right") if above else ((6, -11), "left")
            axis.annotate(
                depth, at, offset, textcoords="offset points", ha=align, color=style["color"], fontsize=9, weight="bold"
            )


def scaling_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw predicted speed and efficiency against the number of devices.

    Args:
        rows: Of `scaling_table.rows`.

    Returns:
        A panel each, a line for each network and strategy.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    lines = list(dict.fromkeys((row["model"], row["strategy"]) for row in rows))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        speed, efficiency = figure.subplots(1, 2)
        for (model, strategy), color in zip(lines, _colors(len(lines)), strict=True):
            some = sorted(
                (row for row in rows if (row["model"], row["strategy"]) == (model, strategy)),
                key=lambda row: row["devices"],
            )
            x = [row["devices"] for row in some]
            style = {"color": color, "marker": "o" if strategy == "ddp" else "s", "lw": 2}
            speed.plot(x, [row["images_per_s"] for row in some], label=f"{model}, {strategy.upper()}", **style)
            efficiency.plot(x, [row["efficiency"] for row in some], **style)
            if strategy == lines[0][1]:
                ideal = [row["devices"] * row["batch"] / row["compute_ms"] * 1e3 for row in some]
                speed.plot(x, ideal, color=color, lw=1, ls="--", label=f"{model}, without communication")
        everywhere = sorted({row["devices"] for row in rows})
        for panel in (speed, efficiency):
            panel.set_xscale("log", base=2)
            panel.set_xticks(everywhere, [str(number) for number in everywhere])
            panel.minorticks_off()
            panel.set_xlabel("devices")
        speed.set_yscale("log")
        speed.set_ylabel("images/s, predicted")
        efficiency.set_ylim(0, 1.05)
        efficiency.yaxis.set_major_formatter(PercentFormatter(1))
        efficiency.set_ylabel("efficiency, predicted")
        names, titles = speed.get_legend_handles_labels()
        figure.legend(names, titles, loc="outside upper center", ncols=min(3, len(titles)), frameon=False)
    return figure


def ablation_figure(rows: Sequence[Mapping[str, Any]], separations: Mapping[str, Separation]) -> Figure | None:
    """Draw the accuracy that an ablation study measured against what the trained network costs.

    Args:
        rows: Of `ablation_table.rows`.
        separations: Of `ablation_table.separations`.

    Returns:
        A column for each axis, a row each for parameters and multiply-adds; None where nothing was measured.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    known = [row for row in rows if "accuracy_mean" in row]
    if not known:
        return None
    axes_of = list(dict.fromkeys(row["axis"] for row in known))
    costs = [("parameters, thousand", "parameters", 1e-3), ("multiply-adds of an image, M", "macs", 1e-6)]
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(1.2 + 3.9 * len(axes_of), 7.0), layout="constrained")
        panels = figure.subplots(2, len(axes_of), sharey=True, squeeze=False)
        for column, axis in enumerate(axes_of):
            some = [row for row in known if row["axis"] == axis]
            found = separations[axis]
            verdict = {True: "separates", False: "does not separate", None: "too few seeds to say"}[found.separates]
            if found.separates is not None:
                span = found.best[1] - found.worst[1]
                verdict += f"\nbest − worst {span:.1f} points, seeds ± {found.deviation:.1f}, p = {found.p:.2g}"
            panels[0, column].set_title(f"{axis}: {verdict}", fontsize=10, loc="left")
            for panel, (label, key, scale) in zip(panels[:, column], costs, strict=True):
                _settings(panel, some, key, scale)
                panel.set_xlabel(label)
                panel.margins(x=0.16, y=0.14)
        for panel in panels[:, 0]:
            panel.set_ylabel(f"{known[0]['split']} accuracy, %")
        seeds = max(row["seeds"] for row in known)
        bars = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
        figure.supxlabel(
            f"{known[0]['trained_model']}, {bars}; filled: the base setting, which all axes share",
            fontsize=8.5,
            color=_GREY,
        )
    return figure


def _settings(panel: Any, rows: Sequence[Mapping[str, Any]], key: str, scale: float) -> None:
    """A point with its bar and label for each setting, joined in the order of the axis."""
    from matplotlib.patheffects import withStroke

    x, y = [row[key] * scale for row in rows], [row["accuracy_mean"] for row in rows]
    panel.plot(x, y, color=_BLUE, lw=1, alpha=0.45)
    for row, at, mean in zip(rows, x, y, strict=True):
        color = _ORANGE if row["base"] else _BLUE
        inside = color if row["base"] else "white"
        bar = row["accuracy_std"] or 0
        panel.errorbar(at, mean, bar, fmt="o", ms=7, mfc=inside, mec=color, ecolor=color, elinewidth=1.4, capsize=3)
        label = panel.annotate(
            row["setting"], (at, mean), (8, 6), textcoords="offset points", color=color, fontsize=10, weight="bold"
        )
        # readable on lines and bars
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])


def photo_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw how close the networks come to photographs without noise against the time of their training.

    Args:
        rows: Of `photo.table.rows`.

    Returns:
        A panel for each photograph; None where nothing was trained for a time on all of one.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    from involution.studies.photo.networks import PER_PIXEL
    from involution.studies.photo.runs import PIXELS, STEPS

    known = [row for row in rows if row["comparison"] not in (STEPS, PIXELS)]
    if not known:
        return None
    names = list(dict.fromkeys(row["network"] for row in known))
    markers = dict(zip(names, ("x", "s", "D", "^", "v", "P", "o"), strict=False))
    ways = list(dict.fromkeys((row["train"], row["test"]) for row in known))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.9 * len(ways), 4.3), layout="constrained")
        panels = figure.subplots(1, len(ways), squeeze=False)[0]
        for panel, (train, test) in zip(panels, ways, strict=True):
            for name in names:
                some = [row for row in known if (row["network"], row["train"]) == (name, train)]
                some.sort(key=lambda row: row["seconds"])
                own = name == PER_PIXEL
                color = _ORANGE if own else _GREY if "large" not in name else _BLUE
                style = {"color": color, "lw": 2.4 if own else 1.2, "marker": markers[name], "ms": 7 if own else 6}
                panel.errorbar(
                    [row["seconds"] for row in some],
                    [row["psnr_mean"] for row in some],
                    [row.get("psnr_std") or 0 for row in some],
                    label=name,
                    capsize=3,
                    elinewidth=1,
                    mfc=color if own else "none",
                    zorder=3 if own else 2,
                    **style,
                )
            panel.set_xscale("log")
            times = sorted({round(row["seconds"], 1) for row in known if row["train"] == train})
            panel.set_xticks(times, [f"{time:g}" for time in times])
            panel.minorticks_off()
            panel.set_xlabel("training, s of one core")
            panel.set_title(f"learned from {train}.jpg, tested on {test}.jpg", fontsize=10, loc="left")
        panels[0].set_ylabel("PSNR, dB")
        lines, labels = panels[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        figure.supxlabel(
            f"bars: standard deviation of {max(row['seeds'] for row in known)} seeds", fontsize=8, color=_GREY
        )
    return figure


def limits_figure(limits: Sequence[Limit], caption: str) -> Figure | None:
    """Draw which share of the machine's measured limits the kernels reach on each layer.

    Args:
        limits: Of `bench_table.limits`.
        caption: Machine and versions.

    Returns:
        A panel for each limit, a bar for each kernel and layer; None without limits.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    panels = list(dict.fromkeys(limit.of for limit in limits))
    if not panels:
        return None
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(5.2 * len(panels), 5.0), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
        for axis, panel in zip(axes, panels, strict=True):
            some = [limit for limit in limits if limit.of == panel]
            layers = list(dict.fromkeys(limit.layer for limit in some))
            kernels = list(dict.fromkeys(limit.kernel for limit in some))
            height = 0.8 / len(kernels)
            for place, (kernel, color) in enumerate(zip(kernels, _colors(len(kernels)), strict=True)):
                bars = [limit for limit in some if limit.kernel == kernel]
                y = [layers.index(limit.layer) + (place - (len(kernels) - 1) / 2) * height for limit in bars]
                values = [limit.share for limit in bars]
                axis.barh(y, values, height * 0.92, color=color, label=kernel)
                for where, value in zip(y, values, strict=True):
                    # inside of the bar where it would lie on the line of the limit
                    inside = 0.88 < value < 1
                    at, align, ink = (-0.012, "right", "white") if inside else (0.012, "left", "#1a1a1a")
                    axis.text(value + at, where, f"{value:.0%}", va="center", ha=align, color=ink, fontsize=7.5)
            axis.axvline(1, color=_GREY, lw=1, ls="--")
            axis.set_yticks(range(len(layers)), layers)
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.set_title(f"share of {panel}", fontsize=10.5, loc="left")
            axis.xaxis.set_major_formatter(PercentFormatter(1))
            if len(kernels) > 1:
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=len(kernels), frameon=False)
        axes[0].set_xlim(0, max(1.1, max(limit.share for limit in limits) + 0.12))
        figure.supxlabel(caption, fontsize=8, color=_GREY)
    return figure


def growth_figure(rows: Sequence[Mapping[str, Any]], caption: str) -> Figure | None:
    """Draw how time and memory grow with each size of a layer, both axes logarithmic.

    Args:
        rows: Of the suite ``growth``.
        caption: Machine and versions.

    Returns:
        Time above memory for each size that was varied, three sizes beside each other; None without such rows.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from involution.studies.growth_table import growths, slope

    lines = growths(rows)
    axes_of = list(dict.fromkeys(axis for axis, _ in lines))
    if not axes_of:
        return None
    names = list(dict.fromkeys(candidate for _, candidate in lines))
    colors = dict(zip(names, [_BLUE, _BLUE, _ORANGE, _ORANGE], strict=False))
    with matplotlib.style.context(["default", _STYLE]):
        width = min(3, len(axes_of))
        bands = -(-len(axes_of) // width)
        figure = Figure(figsize=(1.2 + 3.2 * width, 1 + 4.4 * bands), layout="constrained")
        grid = figure.subplots(2 * bands, width, squeeze=False)
        for unused in grid[-2:, len(axes_of) - width * bands or width :].flat:
            unused.set_axis_off()
        pairs = [(time, memory) for i in range(bands) for time, memory in zip(*grid[2 * i : 2 * i + 2], strict=True)]
        panels = dict(zip(axes_of, pairs, strict=False))
        for (axis, candidate), some in lines.items():
            x = [row["value"] for row in some]
            dashed = "backward" in candidate
            style = {"color": colors[candidate], "lw": 1.6, "ms": 4, "marker": "s" if dashed else "o"}
            style["ls"] = "--" if dashed else "-"
            for panel, key, scale in zip(panels[axis], ("p50_ms", "peak_bytes"), (1, 1e-6), strict=True):
                panel.plot(x, [row[key] * scale for row in some], label=candidate, **style)
                end = (x[-1], some[-1][key] * scale)
                panel.annotate(f"{slope(some, key):.2f}", end, (3, 0), textcoords="offset points", fontsize=7.5)
        for axis, pair in panels.items():
            for panel in pair:
                panel.set_xscale("log")
                panel.set_yscale("log")
                panel.margins(x=0.12)
                for side in (panel.xaxis, panel.yaxis):
                    least, most = side.get_view_interval()
                    side.set_major_locator(LogLocator(subs=(1,) if most / least > 100 else (1, 2, 5)))
                    side.set_major_formatter(
                        FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.0e}")
                    )
                    side.set_minor_formatter(NullFormatter())
            pair[1].set_xlabel(axis)
        for time, memory in pairs[::width]:
            time.set_ylabel("time of a call, ms")
            memory.set_ylabel("peak memory, MB")
        marks, titles = grid[0, 0].get_legend_handles_labels()
        figure.legend(marks, titles, loc="outside upper center", ncols=len(titles), frameon=False)
        figure.supxlabel(f"numbers: slopes, 1 where growth is linear; {caption}", fontsize=8, color=_GREY)
    return figure


def _colors(number: int) -> list[Any]:
    import matplotlib

    few = [_BLUE, _ORANGE, _GREEN]
    return (
        few[:number] if number <= len(few) else [matplotlib.colormaps["tab10"](place % 10) for place in range(number)]
    )


def _where(row: Mapping[str, Any]) -> str:
    return f"{machine()}, {row['dtype']}; bars: p20 to p80"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
