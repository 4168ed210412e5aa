"""The GPU benchmark, by Triton's interpreter where there is no GPU: its rows, and that nothing wrong is timed."""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from involution.studies import harness
from involution.studies.errors import StudyError
from involution.studies.harness import Options
from involution.studies.suites import gpu

# the truth, on a GPU
pytestmark = pytest.mark.filterwarnings("ignore:using plain PyTorch, which is slower.*float64")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = gpu.Problem("small", 32, 3, 2, 3, 1, 1)


def run(dtypes=(torch.float32,)):
    options = Options(dry_run=True, parts=("operator",))
    return harness.run(gpu.plan(options, (SMALL,), dtypes))


def test_rows():
    rows = list(run())
    assert {row["measure"] for row in rows} == {"copy", "forward", "backward"}
    assert rows[0]["gb_per_s"] > 0
    for row in rows[1:]:
        assert row["base"] == "involution"
        if row["candidate"] == "involution":
            assert row["p50_ratio"] == 1
    fused = [row for row in rows if row["candidate"] == "fused"]
    assert len(fused) == 2
    assert all("copy_fraction" in row for row in fused)
    # what the kernels are compared with, both ways
    for measure in ("forward", "backward"):
        candidates = {row["candidate"] for row in rows if row["measure"] == measure}
        assert candidates >= {"unfold", "shift and accumulate", "depthwise 7×7", "dense 3×3", "span, then involution"}


@pytest.mark.parametrize("name", ["forward", "grad_input", "grad_weight", "dynamic_forward"])
def test_a_wrong_kernel_is_not_timed(name, monkeypatch):
    kernel = getattr(gpu.kernels, name)
    monkeypatch.setattr(gpu.kernels, name, lambda *args: kernel(*args) * 1.1)
    with pytest.raises(AssertionError, match="not close"):
        next(run())


def test_a_measurement_that_fails_does_not_end_the_run(monkeypatch):
    def exhausted(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "check", lambda *_: None)
    monkeypatch.setattr(gpu, "opcheck", lambda *_: None)
    monkeypatch.setattr(gpu, "Operands", exhausted)
    rows = list(run((torch.bfloat16, torch.float32)))
    assert [row["layer"] for row in rows] == ["", "small, torch.bfloat16", "small, torch.float32"]
    assert {row["note"] for row in rows[1:]} == {"out of memory"}


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_networks(mode):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    session = gpu._Session(DEVICE, 2)
    rows = list(gpu._networks(gpu.TINY_NETWORKS, 2, mode, False, session))
    by_name = {row["candidate"]: row for row in rows}
    names = ["ResNet-18", "RedNet-nano, fused", "RedNet-nano"]
    assert list(by_name) == names + ["RedNet-nano by unfold"] * (mode == "training")
    for row in rows:
        # rounded to a tenth
        assert row["images_per_s"] == pytest.approx(2e3 / row["p50_ms"], abs=0.06)
    if mode == "training":
        held = [by_name[f"RedNet-nano{way}"]["peak_bytes"] for way in (" by unfold", "", ", fused")]
        assert held == sorted(held, reverse=True)
        assert len(set(held)) == 3


@pytest.mark.parametrize("graph", [False, True])
def test_optimised_networks(graph):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    if graph and DEVICE == "cpu":
        pytest.skip("needs a GPU")
    rows = list(gpu._optimised(gpu.TINY_NETWORKS, 2, graph, gpu._Session(DEVICE, 2)))
    assert [row["candidate"] for row in rows] == ["ResNet-18", "RedNet-nano"]
    assert {row["measure"] for row in rows} == {"inference, CUDA graph" if graph else "inference, optimised"}
    assert all(row["base"] == "ResNet-18" and row["dtype"] == "bfloat16" and row["p50_ms"] > 0 for row in rows)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(StudyError, match="wants a GPU that torch can use, and there is none; --dry-run needs none"):
        gpu.SUITE.measurements(Options())


def test_what_matters_most_comes_first(monkeypatch):
    monkeypatch.setattr(gpu, "_device", lambda dry_run: "cuda")
    names = [measurement.name for measurement in gpu.SUITE.measurements(Options(compiled=True))]
    first = ["checks, stem, torch.bfloat16", "copy", "stem, torch.bfloat16", "networks, inference, batch 256"]
    last = ["stem, torch.float32", "stem, compiled", "networks, training, batch 32, compiled"]
    places = [names.index(name) for name in (*first, *last)]
    assert places == sorted(places)
    assert names[-1] == last[-1]
    assert sum(name.startswith("checks") for name in names) == 9 * 2 + 1


def test_summary_takes_the_weakest_case():
    def row(measure, layer, candidate, ms, **more):
        return {
            "measure": measure,
            "layer": layer,
            "candidate": candidate,
            "p50_ratio": ms,
            "dtype": "bfloat16",
            **more,
        }

    rows = [
        row("forward", "stage 1", "involution", 1.0, batch=256, copy_fraction=0.75),
        row("forward", "stage 1", "unfold", 40.0, batch=256),
        row("forward", "stage 2", "involution", 1.0, batch=256, copy_fraction=0.1),
        row("forward", "stage 2", "unfold", 20.0, batch=256),
        row("training", "network", "ResNet-50", 4.0, batch=32, peak_bytes=100),
        row("training", "network", "RedNet-50, fused", 2.0, batch=32, peak_bytes=90),
        {"measure": "forward", "layer": "stage 3", "candidate": "unfold", "note": "out of memory"},
    ]
    targets = {target.name: target for target in gpu.SUITE.targets(rows)}
    assert targets["copy bandwidth, involution, forward, stage 1"].met
    assert targets["unfold ÷ involution, forward, weakest layer"].measured == 20
    assert not targets["unfold ÷ involution, forward, weakest layer"].met
    assert targets["ResNet-50 ÷ RedNet-50, fused, training time, weakest batch"].measured == 2
    assert not targets["RedNet-50, fused ÷ ResNet-50, training memory, worst batch"].met
    assert len(targets) == 4


def test_problems_are_rednets_and_a_necks():
    names = [problem.name for problem in gpu.PROBLEMS]
    assert names[-1] == "FPN level"
    assert all(a != b for a, b in itertools.pairwise(names))
