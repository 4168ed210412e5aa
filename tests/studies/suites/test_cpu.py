"""The CPU's suite: its rows, and that nothing wrong is timed."""

import pytest
import torch

from involution.studies import harness
from involution.studies.harness import Options
from involution.studies.suites import cpu
from involution.studies.workloads import REDNET50, Layer

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="its tensors are where the GPU is")


def run(*parts, **options):
    return list(harness.run(cpu.SUITE.measurements(Options(dry_run=True, parts=parts, **options))))


@on_cpu
def test_rows_of_tiny_layers():
    rows = run("operator")
    assert [row for row in rows if "note" in row] == []
    assert list(dict.fromkeys(row["measure"] for row in rows)) == [
        "call",
        "call with backward",
        "inference call",
        "forward",
        "gradients",
        "generation",
        "forward+backward",
        "generation training",
        "one thread",
        "memory",
    ]
    forward = [row["candidate"] for row in rows if (row["measure"], row["layer"]) == ("forward", "tiny")]
    assert forward[:5] == ["involution", "taps outermost", "NCHW", "shift and accumulate", "unfold"]
    assert all(row["p50_ratio"] == 1 for row in rows if row["candidate"] == row["base"])
    held = {(row["measure"], row["candidate"]): row["peak_bytes"] for row in rows if row["layer"] == "tiny"}
    assert 0 < held["forward", "involution"] < held["forward", "unfold"]
    limited = {(row["measure"], row["candidate"]) for row in rows if "limit_fraction" in row}
    ours = {("one thread", name) for name in ("matrix product", "forward", "fused", "of input", "of map")}
    assert limited == ours | {("memory", "copy"), ("memory", "forward")}


@on_cpu
def test_a_share_is_of_the_work_in_the_time(monkeypatch):
    layer = Layer("a", 32, 3, 6, 1)
    times = {"matrix product": 1.0, "forward": 0.01, "fused": 0.02}
    given = iter({"candidate": name, "p50_ratio": ratio} for name, ratio in times.items())
    monkeypatch.setattr(cpu, "measure", lambda *args, **columns: ({"base": "matrix product", **row} for row in given))
    product, forward, fused = cpu._limits(layer, 1, Options(seconds=0, rounds=2))
    # in each direction 4 windows with 3 taps inside of the image and 2 with 2
    assert layer.multiply_adds == 32 * 256
    assert (product["limit_fraction"], forward["limit_fraction"]) == (1, round(32 * 256 / 512**3 / 0.01, 3))
    # and 2 groups' kernels of 9 taps out of 8 features at 36 pixels
    assert fused["limit_fraction"] == round((32 * 256 + 2 * 9 * 8 * 36) / 512**3 / 0.02, 3)


@on_cpu
def test_rows_of_networks():
    rows = run("networks")
    names = ["ResNet-18", "RedNet-nano"]
    faster = [f"{name}, {how}" for name in names for how in ("folded", "optimised")]
    inference = [row["candidate"] for row in rows if row["measure"] == "inference"]
    assert inference == [*names, *faster, "RedNet-nano by unfold"]
    assert [row["candidate"] for row in rows if row["measure"] == "training"] == [*names, "RedNet-nano by unfold"]
    held = {row["candidate"]: row["peak_bytes"] for row in rows if row["measure"] == "training memory"}
    assert [*held] == [title for name in names for title in (name, f"{name}, selective checkpointing")]
    assert held["RedNet-nano, selective checkpointing"] < held["RedNet-nano"]
    assert {row["base"] for row in rows} == {"ResNet-18, folded", "ResNet-18"}


@on_cpu
def test_a_wrong_candidate_is_not_timed(monkeypatch):
    monkeypatch.setattr(cpu, "unfold_involution2d", lambda x, *args: torch.zeros_like(x))
    with pytest.raises(AssertionError, match="not close"):
        run("operator")


def test_a_quick_run_and_a_whole_one():
    def names(**options):
        return [measurement.name for measurement in cpu.SUITE.measurements(Options(**options))]

    quick, whole = names(quick=True), names()
    assert {name.rpartition("batch ")[2] for name in quick if "batch" in name} == {"1", "8"}
    assert [name for name in quick if name.startswith("memory")] == [f"memory, {x.name}, batch 8" for x in REDNET50]
    assert len(quick) == 3 + 6 * 8 + 2 + 8
    # networks of a batch of 16 take too long
    assert len(whole) == 3 + 3 * 6 * 8 + 2 * 2 + 1


def row(measure, candidate, ms, layer="stage 1", batch=1, **more):
    return {
        "measure": measure,
        "layer": layer,
        "batch": batch,
        "candidate": candidate,
        "p50_ms": ms,
        "p50_ratio": ms,
        **more,
    }


def test_summary_compares_with_the_targets():
    rows = [
        *(row("forward", "involution", 1, layer) for layer in ("stem", "stage 1", "stage 2")),
        *(row("forward", "unfold", ms, layer) for ms, layer in ((10, "stem"), (61, "stage 1"), (90, "stage 2"))),
        row("forward", "depthwise 7×7", 2, "stem"),
        row("forward", "depthwise 7×7", 0.5, "stage 1"),
        row("one thread", "forward", 1, "stem", limit_fraction=0.1),
        row("one thread", "forward", 1, "stage 1", limit_fraction=0.9),
        row("one thread", "fused", 1, "stage 1", limit_fraction=0.8),
        row("one thread", "fused", 1, "stage 2", limit_fraction=0.7),
        row("memory", "forward", 1, batch=16, limit_fraction=0.4),
        row("generation training", "fused", 8, peak_bytes=10),
        row("generation training", "span, then involution", 10, peak_bytes=40),
        row("training", "RedNet-50", 9, "network"),
        row("training", "ResNet-50", 10, "network"),
        row("training memory", "ResNet-50", 10, "network", 32, peak_bytes=100),
        row("training memory", "ResNet-50, selective checkpointing", 10, "network", 32, peak_bytes=80),
        row("training memory", "RedNet-50, selective checkpointing", 10, "network", 32, peak_bytes=70),
    ]
    found = {target.name: (target.measured, target.met) for target in cpu.SUITE.targets(rows)}
    assert found == {
        "unfold ÷ ours, forward, batch 1": (61, True),
        "depthwise 7×7 ÷ ours, forward, weakest layer, batch 1": (0.5, False),
        "fused ÷ span, then involution, training, batch 1": (0.8, True),
        "fused ÷ span, then involution, peak memory of training, batch 1": (0.25, True),
        "RedNet-50 ÷ ResNet-50, training step, batch 1": (0.9, False),
        "RedNet-50, selective checkpointing ÷ ResNet-50, peak memory of a training step, batch 32": (0.7, True),
        "RedNet-50, selective checkpointing ÷ ResNet-50, selective checkpointing, peak memory of a training step, "
        "batch 32": (0.875, False),
        "share of a matrix product, 7×7 stride 1, one thread": (0.9, True),
        "share of a matrix product, forward, weakest stage, stride 1, one thread": (0.9, True),
        "share of a matrix product, fused, weakest stage, stride 1, one thread": (0.7, False),
        "share of a matrix product, stem and stride 2, one thread": (0.1, False),
        "share of a copy's bandwidth, stage 1, batch 16": (0.4, False),
    }


def test_multiply_adds_leave_the_border_out():
    # 3×3 on 2×2: each output reads all four pixels
    assert Layer("tiny", channels=5, kernel_size=3, size=2, stride=1).multiply_adds == 5 * 16
    assert Layer("tiny", channels=1, kernel_size=1, size=5, stride=2).multiply_adds == 9


def test_layers_are_rednets():
    import timm

    from involution import Involution2d, models  # noqa: F401, registers RedNet with timm

    found = {}

    def note(module, args, output):
        channels, size = args[0].shape[1], args[0].shape[2]
        found[channels, module.kernel_size[0], size, module.stride[0]] = True

    with torch.device("meta"):
        network = timm.create_model("rednet50").eval()
        for module in network.modules():
            if isinstance(module, Involution2d):
                module.register_forward_hook(note)
        network(torch.empty(1, 3, 224, 224))
    assert list(found) == [(layer.channels, layer.kernel_size, layer.size, layer.stride) for layer in REDNET50]
