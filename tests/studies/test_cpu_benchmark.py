"""The CPU benchmark: its rows, and that nothing wrong is timed."""

import pytest
import torch

from involution.ops import native
from involution.studies import cpu_benchmark
from involution.studies.operator_benchmark import REDNET50, Layer

needs_kernels = pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}")
TINY = Layer("tiny", channels=32, kernel_size=7, size=9, stride=1)


@needs_kernels
def test_rows_of_a_tiny_layer():
    rows = list(cpu_benchmark.run((1,), seconds=0, networks=False, layers=(TINY,)))
    measures = {row["measure"] for row in rows}
    assert measures == {
        "call",
        "inference call",
        "forward",
        "gradients",
        "generation",
        "forward+backward",
        "generation training",
        "one thread",
    }
    for row in rows:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        if row["candidate"] == row["base"]:
            assert row["p50_ratio"] == 1
    memory = {row["candidate"]: row["peak_bytes"] for row in rows if row["measure"] == "generation training"}
    assert 0 < memory["fused"] < memory["span, then involution"]


@needs_kernels
def test_a_wrong_candidate_is_not_timed(monkeypatch):
    monkeypatch.setattr(cpu_benchmark, "unfold_involution2d", lambda x, *args: torch.zeros_like(x))
    with pytest.raises(AssertionError, match="not close"):
        list(cpu_benchmark.run((1,), seconds=0, networks=False, layers=(TINY,)))


def test_without_kernels_it_says_why(monkeypatch):
    monkeypatch.setattr(native, "reason", "no compiler")
    with pytest.raises(RuntimeError, match="no C\\+\\+ kernels to time: no compiler"):
        list(cpu_benchmark.run())


def row(measure, candidate, ms, layer="stage 1", batch=1, **more):
    return {"measure": measure, "layer": layer, "batch": batch, "candidate": candidate, "p50_ms": ms, **more}


def test_summary_compares_with_the_targets():
    rows = [
        *(row("forward", "involution", 1, layer) for layer in ("stem", "stage 1", "stage 2")),
        *(row("forward", "unfold", ms, layer) for ms, layer in ((10, "stem"), (61, "stage 1"), (90, "stage 2"))),
        row("forward", "depthwise 7×7", 2, "stem"),
        row("forward", "depthwise 7×7", 0.5, "stage 1"),
        row("one thread", "forward", 1, "stem", limit_fraction=0.1),
        row("one thread", "forward", 1, "stage 1", limit_fraction=0.9),
        row("memory", "forward", 1, batch=16, limit_fraction=0.4),
        row("generation training", "fused", 8, peak_bytes=10),
        row("generation training", "span, then involution", 10, peak_bytes=40),
        row("training", "RedNet-50", 9, "network"),
        row("training", "ResNet-50", 10, "network"),
    ]
    found = {target.name: (target.measured, target.met) for target in cpu_benchmark.summary(rows)}
    assert found == {
        "unfold ÷ ours, forward, batch 1": (61, True),
        "depthwise 7×7 ÷ ours, forward, weakest layer, batch 1": (0.5, False),
        "fused ÷ span, then involution, training, batch 1": (0.8, True),
        "fused ÷ span, then involution, peak memory of training, batch 1": (0.25, True),
        "RedNet-50 ÷ ResNet-50, training step, batch 1": (0.9, False),
        "share of a matrix product, 7×7 stride 1, one thread": (0.9, True),
        "share of a matrix product, stem and stride 2, one thread": (0.1, False),
        "share of a copy's bandwidth, stage 1, batch 16": (0.4, False),
    }


def test_multiply_adds_leave_the_border_out():
    # 3×3 on 2×2: each output reads all four pixels
    assert cpu_benchmark.multiply_adds(Layer("tiny", channels=5, kernel_size=3, size=2, stride=1)) == 5 * 16
    assert cpu_benchmark.multiply_adds(Layer("tiny", channels=1, kernel_size=1, size=5, stride=2)) == 9


def test_layers_are_rednets():
    assert {layer.kernel_size for layer in REDNET50} == {3, 7}
