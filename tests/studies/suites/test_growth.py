"""What the suite of growth measures, and what it leaves out."""

import pytest
import torch

from involution.studies import harness
from involution.studies.suites import growth


def measured(part, **options):
    settings = harness.Options(dry_run=True, parts=(part,), **options)
    return list(harness.run(growth.SUITE.measurements(settings)))


def test_rows_say_what_grew():
    threads = torch.get_num_threads()
    rows = measured("kernel")
    assert [row["value"] for row in rows] == [9] * 4 + [25] * 4
    assert {row["candidate"] for row in rows} == {
        *("fused", "fused, with backward"),
        *("kernels given", "kernels given, with backward"),
    }
    assert all(row["serving"] and row["peak_bytes"] and row["p50_ms"] for row in rows)
    assert {row["threads"] for row in measured("threads")} == {1, 2}
    assert torch.get_num_threads() == threads


def test_what_has_no_room_is_told_and_left_out(monkeypatch):
    monkeypatch.setattr(growth, "_free_memory", lambda: 0.0)
    rows = measured("size")
    assert {row["note"] for row in rows} == {"no room in memory"}
    assert len(rows) == 8


def test_wrong_results_are_not_timed(monkeypatch):
    right = growth.involution2d
    monkeypatch.setattr(growth, "involution2d", lambda *args, **options: 2 * right(*args, **options))
    with pytest.raises(AssertionError, match="not close"):
        measured("group")


def test_targets_are_slopes_of_large_kernels_and_images():
    rows = [
        {"measure": "K²", "candidate": "fused", "value": k * k, "p50_ms": float(k**2) * (3 if k > 20 else 1)}
        for k in (7, 11, 15, 21)
    ]
    (found,) = growth._targets(rows)
    assert found.name == "slope of time, kernels beyond 11×11, fused, steepest"
    assert not found.met
    assert found.measured == pytest.approx(1 + 1.0986 / 0.6729, abs=0.01)
