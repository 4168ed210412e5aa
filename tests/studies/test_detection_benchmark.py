"""The detectors' benchmark: its rows, and that nothing wrong or empty is timed."""

import pytest
import torch

from involution.studies import detection_benchmark
from involution.studies.detection_benchmark import run

SMALL = {"size": (64, 96), "seconds": 0, "rounds": 2}


def test_rows_of_the_neck_and_its_memory():
    rows = list(run(("neck",), **SMALL))
    held = {(row["measure"], row["candidate"]): row["peak_per_output"] for row in rows}
    for measure in ("forward", "forward+backward"):
        assert 1 <= held[measure, "involution"] < held[measure, "map, then involution"] < 20
        assert held[measure, "map, then unfold"] > 90
    for row in rows:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]


def test_a_wrong_form_is_not_timed(monkeypatch):
    monkeypatch.setattr(detection_benchmark, "unfold_involution2d", lambda x, *args: torch.zeros_like(x))
    with pytest.raises(AssertionError, match="not close"):
        list(run(("neck",), **SMALL))


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match="family must be one of retinanet, faster_rcnn, mask_rcnn, neck, got 'detr'"):
        list(run(("detr",)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["retinanet", "mask_rcnn"])
def test_rows_of_a_family(family):
    # smaller images have too few proposals to end with 100 detections
    rows = list(run((family,), backbone="rednet26_stem7", **{**SMALL, "size": (128, 160)}))
    names = ["ResNet-50", "RedNet, convolution neck", "RedNet, involution neck", "RedNet, involution neck and head"]
    expected = names[:3] if family == "retinanet" else names
    assert [row["candidate"] for row in rows] == 2 * expected
    assert {row["measure"] for row in rows} == {"training step", "prediction"}
    assert all(row["peak_bytes"] > 0 and row["p50_ms"] > 0 for row in rows)


@pytest.mark.slow
def test_a_prediction_of_nothing_is_not_timed(monkeypatch):
    monkeypatch.setattr(detection_benchmark, "_make_confident", lambda model: None)
    with pytest.raises(AssertionError, match="too little was timed"):
        list(run(("retinanet",), backbone="rednet26_stem7", **SMALL))
