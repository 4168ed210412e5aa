"""What an ablation study found: a row for each place of each axis, and which axes separate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from involution.studies.ablation import Point, Study, network_cost
from involution.studies.tables import Table, document

SIGNIFICANCE = 0.05
HOW = (
    "An axis separates where its best and its worst mean differ by more than the seeds' standard deviation (pooled "
    f"over the axis) and a one-way analysis of variance over its settings gives p < {SIGNIFICANCE}; the second, since "
    "the best and the worst of several settings differ by about one standard deviation by chance alone. Settings "
    "between them may still be equal."
)


@dataclass(frozen=True)
class Separation:
    """Whether the places of an axis differ by more than their seeds do.

    Attributes:
        separates: None where it can't be said: no two places, or no place with two seeds.
        best: Label and mean, in %, of the best place.
        worst: Of the worst.
        deviation: Standard deviation of the seeds in percentage points, pooled over the places.
        p: Of a one-way analysis of variance: how probable differences as large are if the places were all the same.
    """

    separates: bool | None
    best: tuple[str, float] = ("", math.nan)
    worst: tuple[str, float] = ("", math.nan)
    deviation: float = math.nan
    p: float = math.nan

    def __str__(self) -> str:
        if self.separates is None:
            return "nothing can be said: that takes two settings, and two seeds of one of them"
        span = self.best[1] - self.worst[1]
        return (
            f"{'separates' if self.separates else 'does not separate'}: best {self.best[0]} ({self.best[1]:.1f} %), "
            f"worst {self.worst[0]} ({self.worst[1]:.1f} %), {span:.1f} points apart; standard deviation of the seeds "
            f"{self.deviation:.1f} points, p = {self.p:.2g}"
        )


def separation(accuracies: Mapping[str, Sequence[float]]) -> Separation:
    """Compare the places of an axis.

    Args:
        accuracies: In %, of each place's seeds.

    Example:
        >>> found = separation({"3": [70.0, 71.0], "7": [80.0, 79.0]})
        >>> found.separates, found.best, found.worst, round(found.deviation, 2), round(found.p, 4)
        (True, ('7', 79.5), ('3', 70.5), 0.71, 0.0061)
    """
    from scipy.stats import f

    groups = {label: values for label, values in accuracies.items() if values}
    between, within = len(groups) - 1, sum(len(values) - 1 for values in groups.values())
    if between < 1 or within < 1:
        return Separation(None)
    means = {label: statistics.fmean(values) for label, values in groups.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    mean = statistics.fmean(value for values in groups.values() for value in values)
    inside = sum((value - means[label]) ** 2 for label, values in groups.items() for value in values) / within
    outside = sum(len(values) * (means[label] - mean) ** 2 for label, values in groups.items()) / between
    span = means[best] - means[worst]
    # where no seed differs from another any difference counts
    p = float(f.sf(outside / inside, between, within)) if inside > 0 else float(span == 0)
    deviation = math.sqrt(inside)
    separates = span > deviation and p < SIGNIFICANCE
    return Separation(separates, (best, means[best]), (worst, means[worst]), deviation, p)


def rows(study: Study, records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each place of each axis: costs, and the accuracy where there are records.

    Args:
        study: The study.
        records: Of the runs that ended, by their names.

    Returns:
        Rows with ``axis`` and ``setting``; ``cost_model``, ``cost_parameters`` and ``cost_macs`` (of an image, without
        the classifier), ``published_top1`` in % where it is known; and of the trained network ``parameters``, ``macs``,
        ``seeds``, ``accuracy_mean`` and ``accuracy_std`` in % (n − 1), ``accuracies``, ``diverged`` and
        ``train_seconds``.
    """
    found = []
    for axis, points in study.axes.items():
        for point in points:
            parameters, macs = study.cost_of(point)
            row: dict[str, Any] = {
                "axis": axis,
                "setting": point.label,
                "base": study.is_base(point),
                "cost_model": cost_model(study),
                "cost_parameters": parameters,
                "cost_macs": macs,
            }
            if (published := study.published(point)) is not None:
                row["published_top1"] = published
            found.append(row | _measured(study, point, records))
    return found


def cost_model(study: Study) -> str:
    """Return the name of the network whose costs are shown."""
    return str(study.cost.get("model") or study.config({}).model.name)


def _measured(study: Study, point: Point, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    runs = [study.run(point, seed) for seed in range(study.seeds)]
    ended = [records[run.name] for run in runs if run.name in records]
    if not ended:
        return {}
    row: dict[str, Any] = {"trained_model": runs[0].config.model.name, "seeds": 0}
    good = [record for record in ended if "diverged" not in record]
    if good:
        values = [100 * record["top1"] for record in good]
        parameters, macs = network_cost(runs[0].config, good[0]["classes"])
        row |= {
            "parameters": parameters,
            "macs": macs,
            "seeds": len(values),
            "accuracy_mean": round(statistics.fmean(values), 3),
            "accuracy_std": round(statistics.stdev(values), 3) if len(values) > 1 else "",
            "accuracies": " ".join(f"{value:.3f}" for value in values),
            "images": good[0]["images"],
            "split": good[0]["split"],
            "train_seconds": round(statistics.fmean(record["train_seconds"] for record in good), 1),
        }
    if len(good) < len(ended):
        row["diverged"] = len(ended) - len(good)
    return row


def separations(rows: Sequence[Mapping[str, Any]]) -> dict[str, Separation]:
    """Return for each axis of `rows` whether it separates."""
    found = {}
    for axis in dict.fromkeys(row["axis"] for row in rows):
        some = [row for row in rows if row["axis"] == axis]
        found[axis] = separation({row["setting"]: _accuracies(row) for row in some})
    return found


def _accuracies(row: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in row.get("accuracies", "").split()]


def table(study: Study, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return what a reader wants to see of the rows."""
    published = any("published_top1" in row for row in rows)
    measured = any("seeds" in row for row in rows)
    name = cost_model(study)
    header = ["axis", "setting", f"{name}: parameters, M", f"{name}: MACs, G"]
    header += ["published top-1, %"] if published else []
    header += ["accuracy here, %", "seeds"] if measured else []
    cells = []
    for row in rows:
        line = [row["axis"], f"{row['setting']} (base)" if row["base"] else row["setting"]]
        line += [f"{row['cost_parameters'] / 1e6:.3f}", f"{row['cost_macs'] / 1e9:.3f}"]
        line += [f"{row['published_top1']:.2f}" if "published_top1" in row else ""] if published else []
        line += [_accuracy(row), str(row.get("seeds", ""))] if measured else []
        cells.append(line)
    return Table(study.title, header, cells, labels=2)


def _accuracy(row: Mapping[str, Any]) -> str:
    text = ""
    if "accuracy_mean" in row:
        spread = f" ± {row['accuracy_std']:.1f}" if row["accuracy_std"] != "" else ""
        text = f"{row['accuracy_mean']:.1f}{spread}"
    if "diverged" in row:
        text += f" ({row['diverged']} diverged)"
    return text.strip()


def notes(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what must be known to read the table, and for each axis whether it separates."""
    size = study.cost.get("image_size") or study.config({}).data.image_size
    lines = [
        f"Costs: parameters, and multiply-adds of convolutions and involutions for an image of {size}×{size}, without "
        f"the classifier, of {cost_model(study)}."
    ]
    if any("published_top1" in row for row in rows):
        lines.append(f"Published top-1: ImageNet, {cost_model(study)} as it is.")
    measured = [row for row in rows if "accuracy_mean" in row]
    if not measured:
        return lines
    config, row = study.config({}), measured[0]
    chosen = "" if row["split"] == "test" else ", which also chose the checkpoint"
    side = config.data.image_size
    lines.append(
        f"Accuracy: {row['trained_model']} trained for {config.trainer.epochs} epochs at {side}×{side} on "
        f"{config.data.spec}, top-1 on its {row['images']:,} {row['split']} images{chosen}; mean ± standard deviation "
        "of the seeds."
    )
    lines += [f"{axis}: {found}." for axis, found in separations(rows).items()]
    return [*lines, HOW]


def markdown(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of `rows` and its notes in Markdown."""
    return document([table(study, rows)], notes(study, rows), "ablate")
