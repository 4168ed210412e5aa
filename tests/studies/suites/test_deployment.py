"""The deployment's suite: its rows, its targets, and that nothing wrong is timed."""

from contextlib import nullcontext

import pytest
import torch

from involution.studies import harness
from involution.studies.harness import Options
from involution.studies.suites import deployment


def run(*parts):
    return list(harness.run(deployment.SUITE.measurements(Options(dry_run=True, parts=parts))))


def test_both_networks_are_measured_in_pytorch():
    resnet, rednet = run("eager")
    assert [row["candidate"] for row in (resnet, rednet)] == ["ResNet-18", "RedNet-nano"]
    assert {(row["measure"], row["base"], row["batch"]) for row in (resnet, rednet)} == {("PyTorch", "ResNet-18", 1)}
    assert resnet["p50_ratio"] == 1
    # it would be that of PyTorch alone
    assert "peak_bytes" not in rednet


def test_a_file_is_written_run_and_compared():
    rows = run("onnx")
    assert [row["candidate"] for row in rows] == ["ResNet-18", "RedNet-nano", "RedNet-nano, standard operators"]
    resnet, library, standard = rows
    assert resnet["megabytes"] > 40 > standard["megabytes"] > library["megabytes"]
    assert all(row["made_s"] > 0 and row["runtime"].startswith("onnxruntime 1.") for row in rows)


@pytest.mark.slow
def test_files_of_8_bits_are_measured_against_each_other():
    pytest.importorskip("nncf")
    rows = run("int8")
    assert [row["candidate"] for row in rows] == ["ResNet-18", "RedNet-nano"] * 2
    assert [row["measure"] for row in rows] == ["ONNX Runtime, 8 bits"] * 2 + ["OpenVINO, 8 bits"] * 2
    assert {(row["p50_ratio"], row["base"]) for row in rows[::2]} == {(1, "ResNet-18")}
    assert all(row["megabytes"] < 20 for row in rows)
    assert [row["runtime"].split()[0] for row in rows] == ["onnxruntime"] * 2 + ["openvino"] * 2


def test_nothing_wrong_is_timed(monkeypatch):
    wrong = deployment._Candidate(lambda images: torch.zeros(len(images), 1000), {})
    monkeypatch.setattr(deployment, "_candidates", lambda *words: nullcontext({"ResNet-18": wrong}))
    with pytest.raises(AssertionError, match="not close"):
        run("eager")


@pytest.mark.slow
def test_wrong_boxes_are_not_timed(monkeypatch):
    monkeypatch.setattr(deployment, "_write", lambda *words: (lambda inputs: (torch.zeros(1, 4),) * 3, {}))
    with pytest.raises(AssertionError, match="a file does not find what PyTorch does: "):
        run("detection")


def row(measure, candidate, ratio, batch=1):
    found = {"measure": measure, "layer": "network", "batch": batch, "candidate": candidate}
    return {**found, "base": "ResNet-50", "p50_ratio": ratio}


def test_targets_are_of_each_runtime_and_batch():
    rows = [
        row("AOTInductor", "ResNet-50", 1),
        row("AOTInductor", "RedNet-50", 0.77),
        row("AOTInductor", "ResNet-50", 1, 8),
        row("AOTInductor", "RedNet-50", 0.77, 8),
        row("ONNX Runtime", "ResNet-50", 1),
        row("ONNX Runtime", "RedNet-50", 0.7),
        row("ONNX Runtime", "RedNet-50, standard operators", 1.5),
        harness.not_measured("openvino", "no time left"),
    ]
    found = [(target.name, target.wanted, target.met) for target in deployment.SUITE.targets(rows)]
    assert found == [
        ("RedNet-50 ÷ ResNet-50, AOTInductor, batch 1", "≤ 0.78", True),
        ("RedNet-50 ÷ ResNet-50, AOTInductor, batch 8", "≤ 0.72", False),
        ("RedNet-50 ÷ ResNet-50, ONNX Runtime, batch 1", "≤ 0.72", True),
        ("RedNet-50, standard operators ÷ ResNet-50, ONNX Runtime, batch 1", "≤ 1.4", False),
    ]
