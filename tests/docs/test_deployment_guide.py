"""The deployment guide's way from best.ckpt to running files: its commands run, one after the other."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from explain_checkpoint import save_checkpoint
from pictures import picture

ROOT = Path(__file__).parents[2]
TITLE = "## From best.ckpt to a running file\n"
GUIDE = (ROOT / "docs/guides/deployment.md").read_text(encoding="utf-8")
CLASSES = {"ant", "bee", "cat", "dog"}


def blocks():
    section = GUIDE.partition(TITLE)[2].partition("\n## ")[0]
    return re.findall(r"^```(?:sh|bash)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_each_format_is_there():
    text = "".join(blocks())
    assert set(re.findall(r"--format (\w+)", text)) == {"pt2", "aoti", "onnx", "openvino"}
    assert set(re.findall(r"--runtime (\w+)", text)) == {"torch", "aoti", "onnx", "openvino"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    (folder / "runs/photos").mkdir(parents=True)
    save_checkpoint(folder / "runs/photos/best.ckpt", channels=3, side=32)
    (folder / "photos").mkdir()
    picture(0).save(folder / "photos/0.png")
    picture(1).save(folder / "picture.ppm")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir()
    command = folder / "bin/involution"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m involution "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


# in the order of the page: later blocks use files of earlier ones
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks())))
def test_the_commands_run(number, place):
    block = blocks()[number]
    for word, there in (("cmake", shutil.which("cmake")), ("openvino", find_spec("openvino"))):
        if word in block and there is None:
            pytest.skip(f"there is no {word}")
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    words = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(
        words, cwd=place, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    # each export says what it wrote, each program names the four classes
    assert sum(line.startswith("written ") for line in lines) == block.count("involution export")
    named = [line.split("  ", 1)[1] for line in lines if re.match(r"[01]\.\d{4}  ", line)]
    programs = block.count("classify_onnx.py") + block.count("/classify ")
    assert len(named) == 4 * programs
    assert set(named) == (CLASSES if programs else set())
