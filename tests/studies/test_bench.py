"""The benchmark for anybody's machine: its rows, tables and plot."""

import os
import sys

import pytest
import torch

from involution.ops import native
from involution.studies import bench, cpu_benchmark, environment, plots
from involution.studies.operator_benchmark import Layer
from involution.studies.timing import provenance

needs_kernels = pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU where there is one")
TINY = Layer("tiny", channels=32, kernel_size=7, size=9, stride=1)


@pytest.fixture
def no_networks_of_size(monkeypatch):
    # the real ones take seconds
    some = {name: lambda: None for name in ("ResNet-50", "ResNet-50, folded", "RedNet-50")}
    for name in ("_networks", "_training_steps"):
        monkeypatch.setattr(cpu_benchmark, name, lambda batch, compiled: some)


def measure(**options):
    rows = list(bench.run((1,), seconds=0, layers=(TINY,), **options))
    assert all(row["kernels"] == environment.kernels() for row in rows)
    found = [bench.measurement(row) for row in rows]
    # rows of one measurement come together
    assert sum(one != other for one, other in zip(["", *found], found, strict=False)) == len(set(found))
    return rows, len(set(found))


@needs_kernels
@on_cpu
@pytest.mark.usefixtures("no_networks_of_size")
def test_a_tiny_layer_by_the_kernels(tmp_path):
    rows, number = measure(quick=True)
    assert number == bench.measurements((1,), quick=True, networks=True, layers=1)
    some = bench.limits(rows)
    assert {(limit.of, limit.kernel) for limit in some} == {
        ("one core's matrix product, batch 1", "forward"),
        ("one core's matrix product, batch 1", "gradient of input"),
        ("one core's matrix product, batch 1", "gradient of kernels"),
        ("a copy's memory bandwidth, batch 8", "forward"),
    }
    assert all(limit.share >= 0 for limit in some)
    figure = plots.limits_figure(some, "a machine")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "share of one core's matrix product, batch 1",
        "share of a copy's memory bandwidth, batch 8",
    ]
    assert [len(axis.patches) for axis in figure.axes] == [3, 1]
    plots.save(figure, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    text = bench.markdown(rows, provenance())
    assert "| forward | unfold | involution | 1 |" in text
    assert "| training | RedNet-50 | ResNet-50 | 1 |" in text
    assert "| a copy's memory bandwidth, batch 8 | forward |" in text


@on_cpu
@pytest.mark.usefixtures("no_networks_of_size")
def test_a_tiny_layer_by_the_plain_form(monkeypatch):
    monkeypatch.setattr(native, "reason", "no compiler")
    rows, number = measure()
    assert number == bench.measurements((1,), quick=False, networks=True, layers=1)
    assert {row["measure"] for row in rows} == {"forward", "forward+backward", "one thread", "inference", "training"}
    memory = {row["candidate"]: row["peak_bytes"] for row in rows if row["measure"] == "forward"}
    assert 0 < memory["involution"] < memory["unfold"]


def row(candidate, ratios, layer="stage 1", **more):
    p20, p50, p80 = ratios
    names = {"measure": "forward", "layer": layer, "batch": 8, "candidate": candidate, "base": "involution"}
    return {**names, "p20_ratio": p20, "p50_ratio": p50, "p80_ratio": p80, **more}


def test_ratios_are_medians_over_the_layers():
    rows = [
        row("involution", (1, 1, 1)),
        row("unfold", (1, 2, 3)),
        row("unfold", (4, 5, 9), "stage 2"),
        row("unfold", (5, 6, 7), "stage 3"),
        row("forward", (1, 1, 1), limit_fraction=0.5),
    ]
    assert bench.ratio_table(rows).rows == [["forward", "unfold", "involution", "8", "5.00 (4.00–7.00)", "2.00–6.00"]]


def test_rows_of_a_gpu():
    rows = [
        {"measure": "copy", "layer": "", "candidate": "copy", "gb_per_s": 4000.0},
        row("involution", (1, 1, 1), dtype="bfloat16", copy_fraction=0.7),
        row("unfold", (30, 31, 32), dtype="bfloat16"),
        row("unfold", (10, 11, 12), dtype="float32"),
        {"measure": "forward", "layer": "stage 1", "batch": 8, "dtype": "float32", "candidate": "x", "note": "failed"},
        {"measure": "not measured", "layer": "networks", "candidate": "", "note": "no time left"},
    ]
    assert bench.limits(rows) == [bench.Limit("a copy's memory bandwidth, forward", "stage 1", "involution", 0.7)]
    assert [cells[0] for cells in bench.ratio_table(rows).rows] == ["forward bfloat16", "forward float32"]
    assert "- networks: not measured, no time left" in bench.markdown(rows, {})
    assert plots.limits_figure([], "") is None


def test_the_process_starts_anew_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "-m", "involution", "bench"])
    for name in environment.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    environment.start_for_measuring()
    ((program, words, variables),) = started
    assert (program, words) == (sys.executable, [sys.executable, "-X", "utf8", "-m", "involution", "bench"])
    assert environment.ENVIRONMENT.items() <= variables.items()
    for name, value in environment.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    environment.start_for_measuring()
    assert len(started) == 1
