"""`involution info`: what is shown is what the records of the backends say."""

import os
import subprocess
import sys

import pytest
import torch

import involution
from involution.cli import main
from involution.ops import native
from involution.ops.backends import serving
from involution.ops.schema import OPERATORS


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def rows(text):
    """The cells of each line of a table."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_versions_and_kernels(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"involution {involution.__version__}, torch {torch.__version__}" in out
    cpu = {cells[0]: cells[2:] for cells in rows(out) if cells[1] == "cpu"}
    assert list(cpu) == list(OPERATORS)
    for operator, (kernel, why_not) in cpu.items():
        row = serving(operator, "cpu")
        assert (kernel, why_not) == (row.kernel, row.why_not)


def test_extras(capsys):
    main(["info"])
    states = {cells[0]: cells[-1] for cells in rows(capsys.readouterr().out) if len(cells) == 3}
    assert states["cli"] == states["models"] == "installed"


@pytest.mark.parametrize(
    ("setting", "kernel", "why_not"),
    [
        ({"INVOLUTION_NATIVE": "0"}, "plain PyTorch", "INVOLUTION_NATIVE=0"),
        (
            {"INVOLUTION_NATIVE": "x"},
            "plain PyTorch",
            "INVOLUTION_NATIVE must be 0 (never), 1 (always) or unset (if available); got 'x'",
        ),
        ({"INVOLUTION_NATIVE": ""}, None, ""),
        pytest.param(
            {"INVOLUTION_CPU": "mmx"},
            "plain PyTorch",
            "INVOLUTION_CPU must be one of",
            marks=pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}"),
        ),
    ],
    ids=str,
)
def test_why_not_the_faster_kernel(setting, kernel, why_not):
    environment = {**os.environ, "INVOLUTION_NATIVE": "", "INVOLUTION_CPU": "", **setting}
    command = [sys.executable, "-m", "involution", "info"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = (cells for cells in rows(done.stdout) if cells[:2] == ["involution2d", "cpu"])
    assert row[2] == (kernel or serving("involution2d", "cpu").kernel)
    assert row[3].startswith(why_not)
    # a wrong value is told in one line, too
    assert len(done.stderr.splitlines()) == ("must be" in why_not)
