"""The operator's suite: its rows, and that nothing wrong is timed."""

import pytest
import torch

from involution.studies import harness
from involution.studies.suites import operator


def rows(**options):
    options = harness.Options(dry_run=True, **options)
    return list(harness.run(operator.SUITE.measurements(options)))


def test_rows():
    found = rows(parts=("contiguous",), batches=(2,))
    cases = [(mode, layer) for layer in ("tiny", "tiny, stride 2") for mode in ("forward", "forward+backward")]
    assert [(row["measure"], row["layer"], row["candidate"]) for row in found] == [
        (*case, candidate) for case in cases for candidate in ("involution", "unfold")
    ]
    assert {(row["batch"], row["memory_format"]) for row in found} == {(2, "contiguous")}
    for involution, unfold in zip(found[::2], found[1::2], strict=True):
        # the output and not much more; unfold holds K² = 9 times the output and more
        output = 2 * 32 * (36 if involution["layer"] == "tiny" else 9) * 4
        assert involution["peak_bytes"] >= output
        assert unfold["peak_bytes"] > 9 * output
        assert involution["p50_ratio"] == 1


def test_both_memory_orders_are_measured():
    assert {row["memory_format"] for row in rows()} == {"channels_last", "contiguous"}


def test_a_wrong_form_is_not_timed(monkeypatch):
    monkeypatch.setattr(operator, "unfold_involution2d", lambda x, weight, **geometry: torch.zeros_like(x))
    with pytest.raises(AssertionError, match="not close"):
        rows()
