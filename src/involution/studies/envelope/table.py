"""What the study of accuracy against cost found: rows, tables, and who is ahead where at equal cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from involution.studies.envelope.networks import CONVOLUTION, FAMILIES, cost
from involution.studies.envelope.runs import MEASURES, Plan
from involution.studies.envelope.tasks import TASKS
from involution.studies.envelope.train import BATCH, Run
from involution.studies.moved_digits import SIDE
from involution.studies.tables import Table, document

Row = Mapping[str, Any]
SIGNIFICANCE = 0.05
COSTS = {
    "parameters": "parameters",
    "macs": "multiply-adds",
    "p50_inference_ms": "time of inference",
    "p50_training_ms": "time of training",
}
"""Columns of a row by what they are called."""
HOW = (
    "At equal cost: each seed's accuracies are joined by straight lines over the logarithm of the cost, and averaged "
    f"over the costs that both families have; the figure is the difference of the means to {CONVOLUTION}, ± its "
    f"standard error from the seeds. Level: Welch's t-test gives p ≥ {SIGNIFICANCE}."
)


@dataclass(frozen=True)
class Gain:
    """How far a family is ahead of the 3×3 convolutions where both cost the same.

    Attributes:
        points: Percentage points of accuracy.
        error: Its standard error; NaN for a single seed.
        p: How probable so large a difference is if there is none; NaN for a single seed.
    """

    points: float
    error: float = math.nan
    p: float = math.nan

    @property
    def verdict(self) -> str:
        """``ahead``, ``behind`` or ``level``; nothing where it can't be said."""
        if math.isnan(self.p):
            return ""
        return "level" if self.p >= SIGNIFICANCE else "ahead" if self.points > 0 else "behind"

    def __str__(self) -> str:
        spread = "" if math.isnan(self.error) else f" ± {self.error:.1f}"
        return f"{self.points:+.1f}{spread}{f', {self.verdict}' if self.verdict else ''}"


def rows(plan: Plan, found: Mapping[Run, Row], times: Sequence[Row] | None = None) -> list[dict[str, Any]]:
    """Return a row for each network and task.

    Args:
        plan: What was compared.
        found: Of the trainings that ended, by run.
        times: Of `runs.take_times`.

    Returns:
        Rows with ``task``, ``train_images`` and ``epochs``; ``family``, ``width``, ``parameters``, and
        ``macs`` of an image; ``learning_rate`` and ``threads``; where trainings ended ``test_images``, ``seeds``,
        ``accuracy_mean`` and ``accuracy_std`` in % (n − 1), ``accuracies``, ``train_accuracy`` and ``train_seconds``;
        where there are times milliseconds of an image and ratios, such as ``p50_inference_ms`` and
        ``p50_training_ratio``.
    """
    timed: dict[Any, dict[str, Any]] = {}
    for row in times or ():
        into = timed.setdefault((row["family"], row["width"]), {})
        for kind in ("ms", "ratio"):
            into |= {
                f"{p}_{row['measure']}_{kind}": row[f"{p}_{kind}"]
                for p in ("p20", "p50", "p80")
                if f"{p}_{kind}" in row
            }
    table = []
    for name, family, width in plan.cases():
        task = TASKS[name]
        runs = [plan.run(name, family, width, seed) for seed in range(plan.seeds)]
        ended = [found[run] for run in runs if run in found]
        parameters, macs = cost(family, width)
        row = {
            "task": name,
            "train_images": task.images,
            "epochs": runs[0].epochs,
            "family": family,
            "width": width,
            "parameters": parameters,
            "macs": macs,
            "learning_rate": FAMILIES[family].learning_rate,
            "threads": 1,
        }
        if ended:
            values = [record["accuracy"] for record in ended]
            row |= {
                "test_images": ended[0]["images"],
                "seeds": len(values),
                "accuracy_mean": round(statistics.fmean(values), 3),
                "accuracy_std": round(statistics.stdev(values), 3) if len(values) > 1 else "",
                "accuracies": " ".join(f"{value:.3f}" for value in values),
                "train_accuracy": round(statistics.fmean(record["train_accuracy"] for record in ended), 2),
                "train_seconds": round(statistics.fmean(record["seconds"] for record in ended), 2),
            }
        table.append(row | timed.get((family, width), {}))
    return table


def gain(rows: Sequence[Row], task: str, family: str, key: str) -> Gain | None:
    """Compare a family with the 3×3 convolutions at equal cost.

    Args:
        rows: Of `rows`.
        task: Name of a task.
        family: Name of a family.
        key: What costs are equal, of `COSTS`.

    Returns:
        None where the two have no costs in common, or one has not been measured in two widths.
    """
    both = []
    for name in (family, CONVOLUTION):
        some = [
            row for row in rows if (row["task"], row["family"]) == (task, name) and "accuracies" in row and key in row
        ]
        some.sort(key=lambda row: row[key])
        seeds = min((row["seeds"] for row in some), default=0)
        lines = [[_accuracies(row)[seed] for row in some] for seed in range(seeds)]
        both.append((np.log([row[key] for row in some]), lines))
    if any(len(x) < 2 or not lines for x, lines in both):
        return None
    low, high = max(x[0] for x, _ in both), min(x[-1] for x, _ in both)
    if low >= high:
        return None
    at = np.linspace(low, high, 101)
    own, base = ([float(np.interp(at, x, line).mean()) for line in lines] for x, lines in both)
    return difference(own, base)


def difference(own: Sequence[float], base: Sequence[float]) -> Gain:
    """Compare two groups of seeds by Welch's t-test.

    Example:
        >>> print(difference([70.0, 71.0, 72.0], [60.0, 62.0, 61.0]), difference([70.0, 80.0], [71.0, 75.0]))
        +10.0 ± 0.8, ahead +2.0 ± 5.4, level
        >>> print(difference([70.0], [60.0]))
        +10.0
    """
    from scipy.stats import t

    points = statistics.fmean(own) - statistics.fmean(base)
    if min(len(own), len(base)) < 2:
        return Gain(points)
    parts = [statistics.variance(values) / len(values) for values in (own, base)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Gain(points, 0.0, float(points == 0))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (own, base), strict=True)
    )
    return Gain(points, error, float(2 * t.sf(abs(points) / error, freedom)))


def envelope(rows: Sequence[Row], task: str, key: str) -> list[tuple[str, int]]:
    """Return the networks to which no other one is both cheaper and better, from the cheapest on.

    Args:
        rows: Of `rows`.
        task: Name of a task.
        key: The cost, of `COSTS`.

    Returns:
        Family and width of each.
    """
    some = [row for row in rows if row["task"] == task and key in row and "accuracy_mean" in row]
    found, best = [], -math.inf
    for row in sorted(some, key=lambda row: (row[key], -row["accuracy_mean"])):
        if row["accuracy_mean"] > best:
            best = row["accuracy_mean"]
            found.append((row["family"], row["width"]))
    return found


def gain_table(rows: Sequence[Row]) -> Table:
    """Return how far each family is ahead of the 3×3 convolutions at equal cost."""
    tasks, families = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "family"))
    cells = [
        [task, family, *(str(gain(rows, task, family, key) or "") for key in COSTS)]
        for task in tasks
        for family in families
        if family != CONVOLUTION
    ]
    header = ["task", "family", *(f"equal {name}" for name in COSTS.values())]
    return Table(f"Accuracy at equal cost less that of {CONVOLUTION}, percentage points", header, cells, labels=2)


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Return what each network costs, and where it was measured its times and its accuracy on each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows if "accuracies" in row))
    measures = [measure for measure in MEASURES if any(f"p50_{measure}_ms" in row for row in rows)]
    by = {(row["task"], row["family"], row["width"]): row for row in rows}
    cells = []
    for (family, width), row in {(row["family"], row["width"]): row for row in rows}.items():
        line = [family, str(width), f"{row['parameters'] / 1e3:.1f}", f"{row['macs'] / 1e6:.2f}"]
        line += [f"{row[f'p50_{measure}_ms']:.3f} ({row[f'p50_{measure}_ratio']:.2f})" for measure in measures]
        cells.append([*line, *(_accuracy(by[task, family, width]) for task in tasks)])
    header = ["family", "width", "parameters, thousand", "multiply-adds, M"]
    header += [f"{measure}, ms an image (÷ {CONVOLUTION})" for measure in measures]
    return Table("Networks, their costs and accuracies in %", header + tasks, cells)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables: costs and accuracies, and if something was trained what is ahead at equal cost."""
    return [accuracy_table(rows), *([gain_table(rows)] if any("accuracies" in row for row in rows) else [])]


def leads(rows: Sequence[Row]) -> list[str]:
    """Return for each task which networks none is both cheaper and better than, a line each."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        parts = []
        for key, name in COSTS.items():
            if found := envelope(rows, task, key):
                words = [
                    f"{family} ({', '.join(str(width) for _, width in group)})"
                    for family, group in groupby(found, key=lambda item: item[0])
                ]
                parts.append(f"by {name} {'; '.join(words)}")
        if parts:
            lines.append(
                f"{task}, networks (widths) with none both cheaper and better, cheapest first: {'. '.join(parts)}."
            )
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what must be known to read the tables, and which networks are on the envelope."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        row = next(row for row in rows if row["task"] == task)
        clutter = ", among pieces of other digits" if TASKS[task].clutter else ""
        lines.append(
            f"{task}: scikit-learn's digits, turned and placed anywhere on {SIDE}×{SIDE} pixels{clutter}; "
            f"{row['train_images']} images are trained on for {row['epochs']} epochs."
        )
    trained = [row for row in rows if "accuracies" in row]
    if trained:
        seeds = sorted({row["seeds"] for row in trained})
        lines.append(
            f"Accuracy: of the last step's weights on {trained[0]['test_images']:,} test images; mean ± standard "
            f"deviation of {' to '.join(map(str, seeds))} seeds."
        )
    if any("p50_inference_ms" in row for row in rows):
        lines.append(
            f"Times: the processor's, one thread, batches of {BATCH}, all networks in turn; medians, and in brackets "
            "the median ratio within a round to the same width."
        )
    return [*lines, *([HOW, *leads(rows)] if trained else [])]


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables and their notes in Markdown."""
    return document(tables(rows), notes(rows), "ablate --study envelope")


def _accuracies(row: Row) -> list[float]:
    return [float(value) for value in row["accuracies"].split()]


def _accuracy(row: Row) -> str:
    if "accuracy_mean" not in row:
        return ""
    spread = "" if row.get("accuracy_std", "") == "" else f" ± {row['accuracy_std']:.1f}"
    return f"{row['accuracy_mean']:.1f}{spread}"
