"""What a release is made with: the workflow names what is there, tools are pinned, ignored advisories say why."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from involution import __version__

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_workflow_runs_what_is_there():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert set(jobs["publish"]["needs"]) == {"linux", "macos", "try"}
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {target for command in commands for target in re.findall(r"make ([\w-]+)", command)}
    assert {"release", "audit"} <= targets
    assert all(re.search(rf"^{target}:.*##", MAKEFILE, re.M) for target in targets)
    files = {file for command in commands for file in re.findall(r"(?:tests|src)/[\w/]+\.py", command)}
    assert "tests/core_alone.py" in files
    assert all((ROOT / file).is_file() for file in files)
    # it has never run, and says so until it has
    assert "UNTESTED" in text


def test_the_tools_are_pinned():
    tools = re.search(r"--constraint release/constraints\.txt \\\n\t\t(.+)", MAKEFILE)[1].split()
    lines = (ROOT / "release/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line}
    assert "ziglang" in tools
    assert set(tools) <= pinned


def test_an_ignored_advisory_has_a_reason():
    for line in (ROOT / "release/ignored-advisories.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.match(r"[A-Z]+-[\w-]+ \S+", line), line


def long_description(home=None):
    """What setup.py gives as the description for PyPI."""
    environment = {name: value for name, value in os.environ.items() if name != "INVOLUTION_REPOSITORY"}
    more = {"INVOLUTION_REPOSITORY": home} if home else {}
    words = [sys.executable, "setup.py", "--long-description"]
    variables = {**environment, **more, "INVOLUTION_BUILD_NATIVE": "0", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def test_links_work_on_pypi():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert long_description().strip() == text.strip()
    home = "https://example.org/involution"
    made = long_description(f"{home}/")
    links = re.findall(r'\]\(([^)#]+)|(?:src|srcset)="([^"]+)', made)
    links = ["".join(link) for link in links]
    assert all(link.startswith("https://") for link in links)
    ours = [link.removeprefix(home) for link in links if link.startswith(home)]
    assert len(ours) >= 10
    for link in ours:
        _, kind, tag, file = link.split("/", 3)
        assert tag == f"v{__version__}"
        assert kind == ("raw" if file.endswith(".png") else "blob")
        assert (ROOT / file.partition("#")[0]).is_file()
    # nothing else changed
    assert re.sub(rf"{home}/(blob|raw)/v{__version__}/", "", made).strip() == text.strip()
