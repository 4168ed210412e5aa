"""The core needs nothing but torch and what torch itself requires."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import involution

SCRIPT = Path(__file__).with_name("core_alone.py")


def closure(name, known):
    """Add a distribution and all that it requires without extras."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        # for another platform
        return known
    if found.name not in known:
        known[found.name] = found
        for line in found.requires or []:
            if "extra ==" not in line:
                closure(re.match(r"[\w.-]+", line)[0], known)
    return known


def test_the_core_runs_with_torch_alone(tmp_path):
    for found in closure("torch", {}).values():
        for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(found.locate_file(name))
    assert (tmp_path / "torch").exists()
    assert not (tmp_path / "numpy").exists()
    path = os.pathsep.join([str(tmp_path), str(Path(involution.__file__).parents[1])])
    # without the folder where everything else is
    words = [sys.executable, "-S", "-W", "error", "-W", "ignore:Failed to initialize NumPy:UserWarning", str(SCRIPT)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the core works" in done.stdout
