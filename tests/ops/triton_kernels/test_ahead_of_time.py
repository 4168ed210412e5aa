"""The GPU kernels compiled for GPUs that are not here: registers and the tensor core's instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# bytes a program may have on every GPU from sm_80 on: the least is sm_86's
SHARED = 99 * 1024


# stage 1, which is also compiled with wide offsets; stride 2; the most features, which take the most registers
FEW = {"bfloat16": ("64", "512", "1024"), "float32": ("512", "1024")}
# half a minute each
ALL = [(name, dtype, ()) for name in ("sm_80", "sm_90", "sm_100") for dtype in ("bfloat16", "float16", "float32")]


@pytest.mark.parametrize(
    ("architecture", "dtype", "channels"),
    [
        *(pytest.param("sm_90", dtype, few, id=f"sm_90-{dtype}-few") for dtype, few in FEW.items()),
        *(pytest.param(*one, id="-".join(one[:2]), marks=pytest.mark.slow) for one in ALL),
    ],
)
def test_no_spills(architecture, dtype, channels, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = [sys.executable, str(Path(__file__).with_name("aot.py")), architecture, dtype, *channels]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    # seven kernels
    assert len(rows) == 7 * (len(channels) + ("64" in channels) or 7)
    for row in rows:
        # offsets of 64 bits take registers of their own, for tensors that hardly anybody has
        assert row["spilled"] == 0 or row["layer"].endswith("wide"), row
        assert 0 < row["registers"] <= 255, row
        assert row["shared"] <= SHARED, row
        assert row["vectors"] > 0, row
        # float32's products are exact ones, which the tensor core does not make
        wanted = row["kernel"].startswith("dynamic") and dtype != "float32"
        assert bool(row["tensor_core"]) == wanted, row
