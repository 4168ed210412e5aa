"""The core needs nothing but torch and what torch itself requires."""

import os
import subprocess
import sys
from pathlib import Path

from distributions import link_distributions

import involution

SCRIPT = Path(__file__).with_name("core_alone.py")


def test_the_core_runs_with_torch_alone(tmp_path):
    link_distributions(tmp_path, ["torch"])
    assert (tmp_path / "torch").exists()
    assert not (tmp_path / "numpy").exists()
    path = os.pathsep.join([str(tmp_path), str(Path(involution.__file__).parents[1])])
    # without the folder where everything else is
    words = [sys.executable, "-S", "-W", "error", "-W", "ignore:Failed to initialize NumPy:UserWarning", str(SCRIPT)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the core works" in done.stdout
