"""The programs in examples/ that use exported files: in C++ without Python, and in Python without PyTorch."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from command_lines import ROOT
from explain_checkpoint import save_checkpoint
from PIL import Image

from involution.engine.loading import load_predictor
from involution.export import export_checkpoint, onnx_library, openvino_library

EXAMPLES = ROOT / "examples"
# of pixels that Pillow and PyTorch, or OpenVINO, round in another way when they resize
SCORES = 5e-3
PICTURES = {"wide.ppm": (61, 40), "tall.png": (33, 70), "small.ppm": (20, 20)}


def enlivened(path):
    """Norms whose branches are not zero, so that a picture's classes differ."""
    content = torch.load(path)
    torch.manual_seed(3)
    for name, value in content["state_dict"].items():
        if name.endswith("bn3.weight"):
            value.fill_(0.5)
        if name.endswith(("head.weight", "fc.weight")):
            value.normal_(0, 0.3)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    colour = save_checkpoint(folder / "colour.ckpt", channels=3, side=32, crop_pct=0.875)
    return {"colour": enlivened(colour), "grey": enlivened(save_checkpoint(folder / "grey.ckpt", side=32))}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, size) in enumerate(PICTURES.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


def read(text):
    """Scores by class, in the order of the lines."""
    return {name: float(score) for score, name in (line.split("  ", 1) for line in text.splitlines())}


def as_predicted(found, checkpoint, picture):
    wanted = load_predictor(checkpoint, "cpu").predict(picture)
    assert len(set(wanted.scores)) > 1
    assert list(found) == list(wanted.labels)[:5]
    assert list(found.values()) == pytest.approx(list(wanted.scores)[:5], abs=SCORES)


def without_torch(*words):
    hide = "import sys; sys.modules.update(torch=None, involution=None); "
    code = hide + "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


def test_hidden_means_forbidden(tmp_path):
    script = tmp_path / "a.py"
    script.write_text("import torch")
    assert "import of torch halted" in without_torch(script).stderr


@pytest.mark.parametrize("operators", ["standard", "library"])
@pytest.mark.parametrize("name", ["colour", "grey"])
def test_python_without_torch(name, operators, checkpoints, pictures, tmp_path):
    file = export_checkpoint(checkpoints[name], "onnx", tmp_path / "a.onnx", operators=operators).file
    libraries = [onnx_library()] if operators == "library" else []
    for picture in PICTURES:
        done = without_torch(EXAMPLES / "python/classify_onnx.py", file, pictures / picture, *libraries)
        assert done.returncode == 0, done.stderr
        as_predicted(read(done.stdout), checkpoints[name], pictures / picture)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    from openvino.utils import get_cmake_path

    build = tmp_path_factory.mktemp("build")
    words = ["cmake", "-S", EXAMPLES / "cpp", "-B", build, f"-DOpenVINO_DIR={get_cmake_path()}"]
    for command in (words, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "classify"


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino")
    return {
        name: export_checkpoint(file, "openvino", folder / f"{name}.xml").file for name, file in checkpoints.items()
    }


def classify(program, *words):
    # nothing of Python's environment
    return subprocess.run([program, *map(str, words)], env={}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["colour", "grey"])
def test_cpp_without_python(name, program, exported, checkpoints, pictures):
    with_stb = "WITH_STB" in (program.parent / "CMakeFiles/classify.dir/flags.make").read_text(encoding="utf-8")
    for picture in PICTURES:
        done = classify(program, exported[name], openvino_library(), pictures / picture)
        if picture.endswith(".png") and not with_stb:
            assert "built without stb_image.h" in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        as_predicted(read(done.stdout), checkpoints[name], pictures / picture)


def test_cpp_says_what_is_wrong(program, exported, pictures, tmp_path):
    picture, file = pictures / "wide.ppm", exported["colour"]
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(picture.read_bytes()[:-1])
    wide = tmp_path / "wide.ppm"
    wide.write_bytes(b"P6\n1000000 2\n255\n")
    stranger = tmp_path / "a.xml"
    stranger.write_text(file.read_text(encoding="utf-8").replace("<involution ", "<other "), encoding="utf-8")
    shutil.copyfile(file.with_suffix(".bin"), stranger.with_suffix(".bin"))
    for words, message in (
        ((file, cut), "is cut off"),
        ((file, wide), "not a PPM of 8 bits and at most 32768 pixels a side"),
        ((file, tmp_path / "none.ppm"), "can't be read"),
        ((stranger, picture), "not a file of `involution export --format openvino`"),
    ):
        model, image = words
        done = classify(program, model, openvino_library(), image)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert message in done.stderr
    assert classify(program).returncode == 2


def test_the_python_example_is_short():
    lines = (EXAMPLES / "python/classify_onnx.py").read_text(encoding="utf-8").splitlines()
    body = [line for line in lines if line and not line.startswith(("import ", "from ", '"""'))]
    assert len(body) <= 20
