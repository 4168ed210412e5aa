"""Exported files are served where there is no PyTorch: the same answers, and in the image of examples/docker."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from distributions import link_distributions
from serve_networks import command, png

import involution
from involution.export import LibraryError, export_checkpoint, load_exported
from involution.serve.network import Network
from involution.serve.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "examples" / "docker"
# bytes of the image beside Python's own, which has 130 MB
MOST = 500e6

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """How the command is started where nothing is installed but what the image has, in the way of this environment."""
    folder = tmp_path_factory.mktemp("packages")
    names = re.findall(r"^[\w-]+", (DOCKER / "requirements.txt").read_text(), re.MULTILINE)
    link_distributions(folder, [*names, "onnx", "onnxruntime", "openvino"])
    assert not (folder / "torch").exists()
    path = os.pathsep.join([str(folder), str(Path(involution.__file__).parents[1])])
    return {"start": (sys.executable, "-S", "-m", "involution"), "PYTHONPATH": path}


def exported(checkpoint, file, inside, format="onnx"):
    return export_checkpoint(checkpoint, format, file, with_preprocessing=inside).file


def wanted(name, file, image, runtime="onnx"):
    """The answer of a server in this process."""
    network = Network(name, load_exported(file, runtime), runtime, Settings(((name, str(file)),)))
    (found,) = network.run([image], network.read_options({}))
    return found


def test_a_classifier_is_served_without_pytorch(checkpoints, tmp_path, without_torch):
    file = exported(checkpoints["classify"], tmp_path / "a.onnx", True)
    home = tmp_path / "home"
    home.mkdir()
    with command(tmp_path, file, **without_torch, HOME=str(home)) as running:
        answer = httpx.post(f"{running.address}/predict", content=png())
        assert answer.status_code == 200, answer.content
        assert answer.content == wanted("a", file, png())
        broken = httpx.post(f"{running.address}/predict", content=png()[:60])
        assert broken.status_code == 422
    # ONNX Runtime would note there what it reports to its makers
    assert not list(home.rglob("*"))


def test_what_needs_pytorch_says_so_in_one_line(checkpoints, tmp_path, without_torch):
    words = [*without_torch["start"], "serve", str(checkpoints["classify"]), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": without_torch["PYTHONPATH"]}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "involution: torch is not installed; pip install torch"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_every_task_is_served_without_pytorch(checkpoints, tmp_path, without_torch, format):
    runtime, suffix = (format, {"onnx": ".onnx", "openvino": ".xml"}[format])
    files = {
        f"{task}-{inside}": (task, inside, tmp_path / f"{task}-{inside}{suffix}")
        for task in ("classify", "segment")
        for inside in (True, False)
    }
    try:
        for task, inside, file in files.values():
            exported(checkpoints[task], file, inside, format)
    except LibraryError as error:
        pytest.skip(str(error))
    words = [f"{name}={file}" for name, (_, _, file) in files.items()]
    with command(tmp_path, *words, **without_torch) as running:
        for name, (task, inside, file) in files.items():
            answer = httpx.post(f"{running.address}/predict", params={"model": name}, content=png())
            assert answer.status_code == 200, answer.content
            expected = wanted(name, file, png(), runtime)
            if inside or task == "segment":
                assert answer.content == expected
            else:
                # Pillow's roundings
                for one, other in zip(answer.json()["classes"], json.loads(expected)["classes"], strict=True):
                    assert one["score"] == pytest.approx(other["score"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_detectors_are_served_without_pytorch(tmp_path, without_torch, name):
    from export_networks import save_network

    checkpoint = save_network(tmp_path / "a.ckpt", name)
    files = [exported(checkpoint, tmp_path / f"{inside}.onnx", inside) for inside in (True, False)]
    with command(tmp_path, *files, **without_torch) as running:
        for file in files:
            answer = httpx.post(f"{running.address}/predict", params={"model": file.stem, "score": 0.3}, content=png())
            assert answer.status_code == 200, answer.content
            network = Network(file.stem, load_exported(file, "onnx"), "onnx", Settings((("a", "a"),)))
            (found,) = network.run([png()], network.read_options({"score": "0.3"}))
            assert answer.content == found
            objects = answer.json()["objects"]
            assert objects
            assert all((one["mask"] is not None) == (name == "mask_rcnn") for one in objects)


def copied(tmp_path):
    """What the Dockerfile copies of the repository."""
    source = tmp_path / "source"
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *names, _ = line.split()[1:]
            for name in names:
                target = source / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    ignored = shutil.ignore_patterns("*.so", "*.o", "*.egg-info", "__pycache__")
                    shutil.copytree(ROOT / name, target, ignore=ignored)
                else:
                    shutil.copyfile(ROOT / name, target)
    return source


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("fetches", ["docker", "buildah", ""])
def test_the_image_is_built_where_a_builder_can_fetch_its_base(tmp_path, fetches):
    for builder in ("docker", "podman", "buildah"):
        file = tmp_path / builder
        file.write_text(f'#!/bin/sh\necho {builder} "$@"\ntest "$1" != pull -o {builder} = "{fetches}"\n')
        file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    words = ["make", "--no-print-directory", "image", "RUNTIME=openvino"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build, *images = done.stdout.splitlines()
    if fetches:
        options = "--file examples/docker/Dockerfile --build-arg RUNTIME=openvino --tag involution ."
        assert build == f"{fetches} build {options}"
        assert images == [f"{fetches} images involution"]
    else:
        assert build.startswith("no image is built: neither docker, podman nor buildah can fetch python:3")
        assert not images


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_steps_of_the_image(checkpoints, tmp_path, runtime):
    if shutil.which("g++") is None:
        pytest.skip("no g++, which the image installs")
    text = (DOCKER / "Dockerfile").read_text()
    (step,) = re.findall(r"^RUN sh (.*) /opt/involution \"\$RUNTIME\"$", text, re.MULTILINE)
    folder = tmp_path / "involution"
    # the other instruction sets take minutes and a few megabytes
    environment = {**os.environ, "PYTHON": sys.executable, "INVOLUTION_BUILD_SETS": "native"}
    environment.pop("PYTHONPATH", None)
    words = ["sh", step, str(folder), runtime]
    done = subprocess.run(words, cwd=copied(tmp_path), env=environment, capture_output=True, text=True, check=False)
    if done.returncode and re.search("[Cc]onnection|resolution|No matching distribution", done.stderr):
        pytest.skip(f"no packages to be had: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    print(f"{runtime}: {size / 1e6:.0f} MB")
    assert size < MOST
    # OpenVINO has a folder of that name in its own
    assert not list(folder.rglob("site-packages/torch"))
    suffix, more = {"onnx": (".onnx", {"operators": "library"}), "openvino": (".xml", {})}[runtime]
    try:
        file = export_checkpoint(
            checkpoints["classify"], runtime, tmp_path / f"a{suffix}", with_preprocessing=True, **more
        ).file
    except LibraryError as error:
        pytest.skip(str(error))
    home = tmp_path / "home"
    home.mkdir()
    before = {path: path.lstat().st_mtime_ns for path in (*folder.rglob("*"), home)}
    environment = {"PYTHONPATH": "", "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"INVOLUTION_CACHE": str(folder / "cache"), "CXX": "none"}
    with command(home, file, start=(str(folder / "bin" / "involution"),), **environment) as running:
        answer = httpx.post(f"{running.address}/predict", content=png())
        assert answer.status_code == 200, answer.content
        assert answer.json()["classes"]
    # the file system of the image is read-only
    assert before == {path: path.lstat().st_mtime_ns for path in (*folder.rglob("*"), home)}
