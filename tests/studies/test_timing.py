import csv

import torch

from involution.studies import timing
from involution.studies.operator_benchmark import REDNET50, Layer, medians, run


def test_interleave_orders_percentiles_and_alternates():
    calls = []
    times = timing.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0, min_rounds=5)
    assert calls == ["a", "b"] * 6
    for t in times.values():
        assert 0 <= t.p20 <= t.p50 <= t.p80


def test_peak_memory_counts_what_is_held_at_once():
    def two_then_one() -> None:
        a = torch.empty(1_000_000, dtype=torch.uint8)
        b = torch.empty(2_000_000, dtype=torch.uint8)
        del a, b
        torch.empty(500_000, dtype=torch.uint8)

    peak = timing.peak_memory(two_then_one)
    assert 3_000_000 <= peak < 3_001_000


def test_csv_rows_carry_their_provenance(tmp_path):
    path = tmp_path / "sub" / "rows.csv"
    timing.write_csv(path, [{"x": 1}, {"x": 2}])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["x"] for row in rows] == ["1", "2"]
    assert rows[0]["torch"] == torch.__version__
    assert rows[0]["device"]
    assert [p.name for p in path.parent.iterdir()] == ["rows.csv"]


def test_operator_benchmark_rows(monkeypatch):
    monkeypatch.setattr("involution.studies.operator_benchmark.REDNET50", (Layer("small", 32, 3, 8, 2),))
    rows = list(run((1,), seconds=0.01))
    assert [row["mode"] for row in rows] == ["forward", "forward+backward"]
    for row in rows:
        assert row["speedup"] > 0
        # unfold holds K² = 9 times the output and more
        assert row["unfold_peak_mb"] > row["involution_peak_mb"] > 0
    assert set(medians(rows)) == {(1, "forward"), (1, "forward+backward")}
    assert len(REDNET50) == 8
