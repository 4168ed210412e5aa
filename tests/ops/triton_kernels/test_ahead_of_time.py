"""The GPU kernels compiled for GPUs that are not here: registers and the tensor core's instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
slow = pytest.mark.slow

# bytes a program may have on every GPU from sm_80 on: the least is sm_86's
SHARED = 99 * 1024


@pytest.mark.parametrize(
    "architecture", [pytest.param("sm_80", marks=slow), "sm_90", pytest.param("sm_100", marks=slow)]
)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=slow), "float32"])
def test_no_spills(architecture, dtype, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = [sys.executable, str(Path(__file__).with_name("aot.py")), architecture, dtype]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 7 * 7
    for row in rows:
        # offsets of 64 bits take registers of their own, for tensors that hardly anybody has
        assert row["spilled"] == 0 or row["layer"].endswith("wide"), row
        assert 0 < row["registers"] <= 255, row
        assert row["shared"] <= SHARED, row
        assert row["vectors"] > 0, row
        # float32's products are exact ones, which the tensor core does not make
        wanted = row["kernel"].startswith("dynamic") and dtype != "float32"
        assert bool(row["tensor_core"]) == wanted, row
