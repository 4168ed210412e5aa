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
    assert measures == {"call", "forward", "gradients", "generation", "forward+backward", "generation training"}
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


def test_layers_are_rednets():
    assert {layer.kernel_size for layer in REDNET50} == {3, 7}
