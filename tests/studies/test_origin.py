"""Where rows come from: machine, versions, names of files; and the environment to measure in."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from involution.studies import origin, suites

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ROW = {"layer": "stage 1", "batch": 8, "p50_ms": 1.5, "folded": True, "note": "", "setting": "3"}


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "sub" / "rows.csv"
    origin.write_csv(path, [ROW, {"layer": "stem"}])
    first, second = origin.read_csv(path)
    # an empty cell is none
    assert {key: first[key] for key in ROW if key in first} == {key: ROW[key] for key in ROW if key != "note"}
    assert second == {"layer": "stem", **origin.provenance()}
    assert [p.name for p in path.parent.glob("[!.]*")] == ["rows.csv"]


def test_every_row_says_where_it_comes_from():
    found = origin.provenance()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"].startswith(origin.cpu_name())
    assert found["kernels"] == origin.kernels()


@pytest.mark.parametrize(
    ("cpuinfo", "lscpu", "sysctl", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "", "", "AMD EPYC (family 25, model 17)"),
        ("processor: 0\n", "Model name:   Neoverse-V2\nModel: 1", "", "Neoverse-V2"),
        (None, "", "Apple M3", "Apple M3"),
        (None, "", "", "what Python knows"),
    ],
)
def test_the_processors_name(cpuinfo, lscpu, sysctl, name, monkeypatch):
    monkeypatch.setattr(origin.Path, "exists", lambda path: cpuinfo is not None)
    monkeypatch.setattr(origin.Path, "read_text", lambda path, **options: cpuinfo)
    monkeypatch.setattr(origin, "_output", lambda command, *rest: {"lscpu": lscpu, "sysctl": sysctl}[command])
    monkeypatch.setattr(origin.platform, "processor", lambda: "what Python knows")
    assert origin.cpu_name.__wrapped__() == name


def test_caches_of_the_processor(monkeypatch, tmp_path):
    kinds = [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K")]
    for number, values in enumerate(kinds):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index3").mkdir()
    monkeypatch.setattr(origin, "_CACHES", tmp_path)
    assert origin.caches.__wrapped__() == "L1 32K, L2 1024K"
    monkeypatch.setattr(origin, "_CACHES", tmp_path / "none")
    assert origin.caches.__wrapped__() == ""
    monkeypatch.setattr(origin, "caches", lambda: "")
    assert "caches" not in origin.provenance()


def test_a_program_that_is_missing_says_nothing():
    assert origin._output("no-such-program") == ""


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("AMD EPYC (family 25, model 17)", "cpu-quick_amd-epyc-plain_torch2.14.1"),
        ("AMD EPYC 9R14 96-Core Processor (family 25, model 17)", "cpu-quick_amd-epyc-9r14-plain_torch2.14.1"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "cpu-quick_intel-xeon-platinum-8481c-plain_torch2.14.1"),
        ("NVIDIA H100 80GB HBM3", "cpu-quick_nvidia-h100-80gb-hbm3-plain_torch2.14.1"),
    ],
)
def test_names_of_files(device, name, monkeypatch):
    monkeypatch.setattr(origin, "device_name", lambda: device)
    monkeypatch.setattr(origin, "kernels", lambda: "plain")
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    assert origin.file_name("cpu", "quick") == name


def test_results_are_named_by_the_rule():
    # a compiler's model of a processor, which is measured on none, has names of its own
    paths = [path for path in RESULTS.iterdir() if not path.name.startswith("mca_")]
    names = [path.name for path in paths]
    assert "cpu_amd-epyc-avx512_torch2.14.1.csv" in names
    studies, kernels = (
        "|".join([*suites.SUITES, "cost", "ablate", "envelope", "expand", "notes", "photo", "training"]),
        "plain|avx2|avx512|baseline|triton|cuda",
    )
    rule = rf"({studies})(-\w+)*_[a-z0-9-]+-({kernels})_torch[\d.]+\.csv"
    assert [name for name in names if not re.fullmatch(rule, name)] == []
    for path in paths:
        assert all(row["device"] and row["torch"] and row["date"] for row in origin.read_csv(path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run interprets only without a GPU")
def test_the_process_starts_anew_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "-m", "involution", "bench"])
    for name in (*origin.ENVIRONMENT, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    origin.start_for_measuring()
    ((program, words, variables),) = started
    assert (program, words) == (sys.executable, [sys.executable, "-X", "utf8", "-m", "involution", "bench"])
    assert origin.ENVIRONMENT.items() <= variables.items()
    assert "TRITON_INTERPRET" not in variables
    for name, value in origin.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    origin.start_for_measuring()
    assert len(started) == 1
    origin.start_for_measuring(dry_run=True)
    assert started[1][2]["TRITON_INTERPRET"] == "1"
