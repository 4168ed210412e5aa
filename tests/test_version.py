"""The version is written once, in src/involution/__init__.py."""

import subprocess
import sys
from pathlib import Path

import involution

ROOT = Path(__file__).parents[1]


def test_the_package_takes_its_version_from_the_source():
    words = [sys.executable, "setup.py", "--quiet", "--version"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split()[-1] == involution.__version__
    assert f'"{involution.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
