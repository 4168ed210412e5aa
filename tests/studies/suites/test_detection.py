"""The detectors' benchmark: its rows, and that nothing wrong or empty is timed."""

import pytest
import torch

from involution.studies import harness
from involution.studies.harness import Options
from involution.studies.suites import detection


def run(family):
    return list(harness.run(detection.SUITE.measurements(Options(dry_run=True, parts=(family,)))))


def test_rows_of_the_neck_and_its_memory():
    rows = run("neck")
    held = {(row["measure"], row["candidate"]): row["peak_per_output"] for row in rows}
    for measure in ("forward", "forward+backward"):
        assert 1 <= held[measure, "involution"] < held[measure, "map, then involution"] < 20
        assert held[measure, "map, then unfold"] > 90
    assert {(row["height"], row["width"], row["batch"], row["base"]) for row in rows} == {(128, 160, 1, "involution")}


def test_a_wrong_form_is_not_timed(monkeypatch):
    monkeypatch.setattr(detection, "unfold_involution2d", lambda x, *args: torch.zeros_like(x))
    with pytest.raises(AssertionError, match="not close"):
        run("neck")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["retinanet", "mask_rcnn"])
def test_rows_of_a_family(family):
    rows = run(family)
    names = ["ResNet-50", "RedNet, convolution neck", "RedNet, involution neck", "RedNet, involution neck and head"]
    expected = names[:3] if family == "retinanet" else names
    assert [row["candidate"] for row in rows] == 2 * expected
    assert {row["measure"] for row in rows} == {"training step", "prediction"}
    assert all(row["peak_bytes"] > 0 and row["p50_ms"] > 0 for row in rows)


@pytest.mark.slow
def test_a_prediction_of_nothing_is_not_timed(monkeypatch):
    monkeypatch.setattr(detection, "make_confident", lambda model: None)
    with pytest.raises(AssertionError, match="too little was timed"):
        run("retinanet")
