"""Slopes of growth: exponents of made-up laws, and a table and plot of them."""

import pytest

from involution.studies import bench_table, plots
from involution.studies.growth_table import growth_table, growths, local_slopes, slope


def rows(candidate="fused", power=1.5, axis="H·W"):
    return [
        {
            "measure": axis,
            "candidate": candidate,
            "layer": f"{n}",
            "batch": 1,
            "value": n,
            "p50_ms": 0.1 * n**power,
            "peak_bytes": 8 * n,
        }
        for n in (16, 4, 64)
    ]


def test_slopes_are_exponents():
    assert slope(rows(power=1.5), "p50_ms") == pytest.approx(1.5)
    assert slope(rows(), "peak_bytes") == pytest.approx(1)
    bent = sorted(rows(power=1), key=lambda row: row["value"])
    bent[-1]["p50_ms"] *= 4
    assert [value for value, _ in local_slopes(bent)] == [16, 64]
    assert [step for _, step in local_slopes(bent)] == pytest.approx([1, 2])


def test_a_table_has_a_row_for_each_axis_and_candidate():
    single = rows(axis="batch")[:1]
    missing = {"measure": "not measured", "candidate": "", "note": "no room in memory"}
    found = [*rows(), *rows("fused, with backward", 1), *single, missing]
    assert list(growths(found)) == [("H·W", "fused"), ("H·W", "fused, with backward")]
    table = growth_table(found)
    assert table.rows[0] == ["H·W", "fused", "4–64", "1.50 (1.50–1.50)", "1.00", "0.80", "51.20", "0.0", "0.0"]
    assert bench_table.tables(found) == [table]


def test_a_plot_has_a_column_for_each_axis():
    figure = plots.growth_figure([*rows(), *rows(axis="batch")], "a machine")
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["H·W", "batch"]
    assert all(axes.get_yscale() == "log" for axes in figure.axes)
    assert plots.growth_figure([], "a machine") is None
