"""The tables of a suite's rows: each candidate's time over its base's, and the share of the machine's limits."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from involution.studies.growth_table import growth_table, growths
from involution.studies.harness import Target
from involution.studies.tables import Table, document

# on a GPU the copy is of memory, on a CPU the matrix product of one core
_MATRIX, _COPY = "one core's matrix product", "a copy's memory bandwidth"
# what tells measurements apart, beside batch and layer
_CASE = ("family", "measure", "memory_format", "dtype")


@dataclass(frozen=True)
class Limit:
    """Which share of a measured limit of the machine a kernel reaches on a layer.

    Attributes:
        of: The limit.
        layer: The layer.
        kernel: The kernel.
        share: 1 at the limit.
    """

    of: str
    layer: str
    kernel: str
    share: float


_KERNELS = {
    "forward": "forward",
    "fused": "generation and forward",
    "of input": "gradient of input",
    "of map": "gradient of kernels",
}


def limits(rows: Iterable[Mapping[str, Any]]) -> list[Limit]:
    """Return the shares of the machine's limits in a run's rows; of a GPU in the first number format."""
    found = []
    for row in rows:
        if row.get("limit_fraction") is not None and row["candidate"] in _KERNELS:
            limit = f"{_MATRIX}, batch 1" if row["measure"] == "one thread" else f"{_COPY}, batch {row['batch']}"
            found.append(Limit(limit, row["layer"], _KERNELS[row["candidate"]], row["limit_fraction"]))
        elif row.get("copy_fraction") is not None and row["dtype"] == "bfloat16":
            found.append(Limit(f"{_COPY}, {row['measure']}", row["layer"], row["candidate"], row["copy_fraction"]))
    return found


def ratio_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return each candidate's time over its base's: medians over the layers, and the span of the layers."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("p50_ratio") is None or row["candidate"] == row["base"] or "limit_fraction" in row:
            continue
        # a network is one, layers are many
        measure = " ".join(str(row[key]) for key in _CASE if row.get(key))
        groups.setdefault((measure, str(row["batch"]), row["candidate"], row["base"]), []).append(row)
    cells = []
    for (measure, batch, candidate, base), some in groups.items():
        middle = {p: statistics.median(row[f"{p}_ratio"] for row in some) for p in ("p20", "p50", "p80")}
        ratios = [row["p50_ratio"] for row in some]
        span = f"{min(ratios):.2f}–{max(ratios):.2f}" if len(ratios) > 1 else ""
        figures = f"{middle['p50']:.2f} ({middle['p20']:.2f}–{middle['p80']:.2f})"
        cells.append([measure, candidate, base, batch, figures, span])
    header = ["measure", "candidate", "÷ base", "batch", "time ratio (p20–p80)", "over the layers"]
    return Table("Time of the candidate ÷ time of the base; medians over the layers", header, cells, labels=3)


def limit_table(some: Sequence[Limit]) -> Table:
    """Return the shares of the machine's limits, a row for each limit and kernel, a column for each layer."""
    layers = list(dict.fromkeys(limit.layer for limit in some))
    shares = {(limit.of, limit.kernel, limit.layer): limit.share for limit in some}
    cells = [
        [of, kernel, *(f"{share:.0%}" if (share := shares.get((of, kernel, layer))) else "" for layer in layers)]
        for of, kernel in dict.fromkeys((limit.of, limit.kernel) for limit in some)
    ]
    return Table("Share of the machine's measured limits", ["limit", "kernel", *layers], cells, labels=2)


def target_table(targets: Iterable[Target]) -> Table:
    """Return the targets of a suite, met and missed."""
    cells = [
        [target.name, target.wanted, f"{target.measured:g}", "met" if target.met else "missed"] for target in targets
    ]
    return Table("Targets", ["what", "wanted", "measured", ""], cells)


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was not measured, and why."""
    return [
        f"{' '.join(filter(None, (row['layer'], row['candidate'])))}: not measured, {row['note']}"
        for row in rows
        if "note" in row
    ]


def markdown(rows: Sequence[Mapping[str, Any]], suite: str) -> str:
    """Return the tables of a suite's rows in Markdown."""
    return document(tables(rows), notes(rows), f"bench {suite}")


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the tables that there are rows for."""
    if growths(rows):
        return [growth_table(rows)]
    some = limits(rows)
    return [ratio_table(rows), *([limit_table(some)] if some else [])]
