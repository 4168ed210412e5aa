"""The GPU benchmark, by Triton's interpreter where there is no GPU: its rows, and that nothing wrong is timed."""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from involution.studies import gpu_benchmark

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = gpu_benchmark.Problem("small", 32, 3, 2, 3, 1, 1)


def run(**options):
    settings = {"device": DEVICE, "dtypes": (torch.float32,), "rounds": 2, "networks": None, "compiled": False}
    return gpu_benchmark.run((SMALL,), **{**settings, **options})


def test_rows():
    rows = list(run())
    assert {row["measure"] for row in rows} == {"copy", "forward", "backward"}
    assert rows[0]["gb_per_s"] > 0
    for row in rows[1:]:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert (row["candidate"] == row["base"]) <= (row["p50_ratio"] == 1)
    fused = [row for row in rows if row["candidate"] == "fused"]
    assert len(fused) == 2
    assert all("copy_fraction" in row for row in fused)
    # what the kernels are compared with, both ways
    for measure in ("forward", "backward"):
        candidates = {row["candidate"] for row in rows if row["measure"] == measure}
        assert candidates >= {"unfold", "shift and accumulate", "depthwise 7×7", "dense 3×3", "span, then involution"}


@pytest.mark.parametrize("name", ["forward", "grad_input", "grad_weight", "dynamic_forward"])
def test_a_wrong_kernel_is_not_timed(name, monkeypatch):
    kernel = getattr(gpu_benchmark.kernels, name)
    monkeypatch.setattr(gpu_benchmark.kernels, name, lambda *args: kernel(*args) * 1.1)
    with pytest.raises(AssertionError, match="not close"):
        next(run())


def test_what_there_is_no_time_for_is_named():
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    rows = list(run(minutes=0, networks=gpu_benchmark.TINY_NETWORKS, compiled=True))
    assert [row["measure"] for row in rows] == ["copy", *["not measured"] * 6]
    assert rows[1]["layer"] == "small, torch.float32"
    assert {row["note"] for row in rows[1:]} == {"no time left"}


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (torch.OutOfMemoryError(), "out of memory"),
        (RuntimeError("no compiler\nmore"), "failed: RuntimeError: no compiler"),
    ],
)
def test_a_candidate_that_fails_is_a_row(error, note):
    def fails():
        raise error

    columns = {"measure": "forward"}
    rows = list(gpu_benchmark._rows({"bad": fails, "good": lambda: torch.ones(3)}, "good", DEVICE, 2, columns))
    assert rows[0] == {"measure": "forward", "candidate": "bad", "note": note}
    assert rows[1]["candidate"] == "good"
    assert rows[1]["p50_ms"] > 0


def test_a_measurement_that_fails_does_not_end_the_run(monkeypatch):
    def exhausted(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_benchmark, "check", lambda *_: None)
    monkeypatch.setattr(gpu_benchmark, "_Operands", exhausted)
    rows = list(run(dtypes=(torch.bfloat16, torch.float32)))
    assert [row["layer"] for row in rows] == ["", "small, torch.bfloat16", "small, torch.float32"]
    assert {row["note"] for row in rows[1:]} == {"out of memory"}


@pytest.mark.parametrize("training", [False, True])
def test_networks(training):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    rows = list(gpu_benchmark._networks(gpu_benchmark.TINY_NETWORKS, 2, training, False, DEVICE, 2))
    by_name = {row["candidate"]: row for row in rows}
    names = ["resnet18", "rednet_nano", "rednet_nano, fused"] + ["rednet_nano by unfold"] * training
    assert list(by_name) == names
    assert all(row["images_per_s"] > 0 for row in rows)
    if training:
        unfold, unfused, fused = (by_name[f"rednet_nano{way}"]["peak_mb"] for way in (" by unfold", "", ", fused"))
        assert unfold > unfused > fused


def test_summary_takes_the_weakest_case():
    def row(measure, layer, candidate, ms, **more):
        return {"measure": measure, "layer": layer, "candidate": candidate, "p50_ms": ms, "dtype": "bfloat16", **more}

    rows = [
        row("forward", "stage 1", "involution", 1.0, batch=256, copy_fraction=0.75),
        row("forward", "stage 1", "unfold", 40.0, batch=256),
        row("forward", "stage 2", "involution", 1.0, batch=256, copy_fraction=0.1),
        row("forward", "stage 2", "unfold", 20.0, batch=256),
        row("training", "network", "resnet50", 4.0, batch=32, peak_mb=100.0),
        row("training", "network", "rednet50, fused", 2.0, batch=32, peak_mb=90.0),
        {"measure": "forward", "layer": "stage 3", "candidate": "unfold", "note": "out of memory"},
    ]
    targets = {target.name: target for target in gpu_benchmark.summary(rows)}
    assert targets["copy bandwidth, involution, forward, stage 1"].met
    assert targets["unfold ÷ involution, forward, weakest layer"].measured == 20
    assert not targets["unfold ÷ involution, forward, weakest layer"].met
    assert targets["rednet50, fused ÷ resnet50, training images/s, weakest batch"].measured == 2
    assert not targets["rednet50, fused ÷ resnet50, training memory, worst batch"].met
    assert len(targets) == 4


def test_problems_are_rednets_and_a_necks():
    names = [problem.name for problem in gpu_benchmark.PROBLEMS]
    assert names[-1] == "FPN level"
    assert all(a != b for a, b in itertools.pairwise(names))
