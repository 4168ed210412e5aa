"""The GPU benchmark, by Triton's interpreter where there is no GPU: its rows, and that nothing wrong is timed."""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from involution.studies import gpu_benchmark

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(**options):
    settings = {"device": DEVICE, "dtypes": (torch.float32,), "rounds": 2, "networks": False, "compiled": False}
    return gpu_benchmark.run(gpu_benchmark.TINY[:1], **{**settings, **options})


def test_rows():
    rows = list(run())
    assert {row["measure"] for row in rows} == {"copy", "forward", "backward", "forward+backward"}
    assert rows[0]["gb_per_s"] > 0
    for row in rows[1:]:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert (row["candidate"] == row["base"]) <= (row["p50_ratio"] == 1)
    fused = [row for row in rows if row["candidate"] == "fused"]
    assert len(fused) == 2
    assert all("copy_fraction" in row for row in fused)


@pytest.mark.parametrize("name", ["forward", "grad_input", "grad_weight", "dynamic_forward"])
def test_a_wrong_kernel_is_not_timed(name, monkeypatch):
    kernel = getattr(gpu_benchmark.kernels, name)
    monkeypatch.setattr(gpu_benchmark.kernels, name, lambda *args: kernel(*args) * 1.1)
    with pytest.raises(AssertionError, match="not close"):
        next(run())


def test_what_there_is_no_time_for_is_named():
    rows = list(run(minutes=0, networks=True))
    assert [row["measure"] for row in rows[:2]] == ["copy", "not measured"]
    assert "tiny" in rows[1]["layer"]


def test_out_of_memory_is_a_row(monkeypatch):
    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_benchmark, "unfold_involution2d", exhausted)
    rows = [row for row in run() if row["candidate"] == "unfold"]
    assert {row["note"] for row in rows} == {"out of memory"}


def test_problems_are_rednets_and_a_necks():
    names = [problem.name for problem in gpu_benchmark.PROBLEMS]
    assert names[-1] == "FPN level"
    assert all(a != b for a, b in itertools.pairwise(names))
