"""The table of `involution bench growth`: slopes of time and memory, as exponents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from involution.studies.tables import Table


def growths(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return the rows of each axis and candidate that were measured, the smallest value first."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "value" in row and "p50_ms" in row:
            found.setdefault((row["measure"], row["candidate"]), []).append(row)
    return {key: sorted(some, key=lambda row: row["value"]) for key, some in found.items() if len(some) > 1}


def slope(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the exponent with which a figure grows: the slope of the line of least squares, both axes logarithmic.

    Args:
        rows: Two or more with different values.
        key: ``p50_ms`` or ``peak_bytes``.

    Example:
        >>> slope([{"value": 1, "p50_ms": 2.0}, {"value": 4, "p50_ms": 8.0}], "p50_ms")
        1.0
    """
    x = [math.log(row["value"]) for row in rows]
    y = [math.log(row[key]) for row in rows]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle_x) ** 2 for a in x)


def local_slopes(rows: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return each value but the first, and the exponent of time from the value before to it."""
    some = sorted((row for row in rows if "p50_ms" in row), key=lambda row: row["value"])
    return [(after["value"], slope([before, after], "p50_ms")) for before, after in itertools.pairwise(some)]


def growth_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return for each axis and candidate the slopes of time and memory, and time and memory at both ends."""
    cells = []
    for (axis, candidate), some in growths(rows).items():
        first, last = some[0], some[-1]
        steps = [step for _, step in local_slopes(some)]
        cells.append(
            [
                *(axis, candidate, f"{first['value']:,}–{last['value']:,}"),
                f"{slope(some, 'p50_ms'):.2f} ({min(steps):.2f}–{max(steps):.2f})",
                f"{slope(some, 'peak_bytes'):.2f}",
                *(f"{row['p50_ms']:,.2f}" for row in (first, last)),
                *(f"{row['peak_bytes'] / 1e6:,.1f}" for row in (first, last)),
            ]
        )
    header = ["grows", "", "from–to", "slope of time (least and most from one value to the next)", "slope of memory"]
    header += ["ms, first", "ms, last", "MB, first", "MB, last"]
    return Table("Growth: exponents, 1 where it is linear", header, cells, labels=3)
