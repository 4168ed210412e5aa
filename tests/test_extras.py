"""Optional packages: every one is known, and a command that misses one says in one line how to install it."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from explain_checkpoint import save_checkpoint
from PIL import Image

from involution.extras import EXTRAS, MissingExtra, is_installed, require

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "involution"
FOR_DEVELOPERS = {"docs", "dev"}
# services that developers need no account of
SERVICES = {"wandb", "mlflow"}
# what torch itself brings
WITH_TORCH = {"torch", "triton", "cuda", "typing_extensions", "filelock", "fsspec"}
# of no extra: named where a picture wants it
WISHED_FOR = {"pillow_heif"}
PACKAGES = list(dict.fromkeys(package for extra in EXTRAS.values() for package in extra.packages))


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements():
    """(extra, distribution) of every line of pyproject.toml's optional dependencies; Python 3.10 has no tomllib."""
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    for name, listed in re.findall(r"^(\w+) = \[(.*?)\]$", table, re.S | re.M):
        for requirement in re.findall(r'"([\w.-]+)', listed):
            yield name, canonical(requirement)


def test_every_requirement_of_an_extra_is_known():
    brought_by = {}
    for package, distributions in packages_distributions().items():
        for distribution in distributions:
            brought_by.setdefault(canonical(distribution), set()).add(package)
    extras = set()
    for name, distribution in requirements():
        extras.add(name)
        if name in FOR_DEVELOPERS | SERVICES or distribution == "involution":
            continue
        known = {package for extra in EXTRAS.values() for package in extra.packages}
        assert brought_by[distribution] & known, f"extras.py does not know {distribution} of the extra {name}"
    assert extras - FOR_DEVELOPERS - {"all"} == set(EXTRAS)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        yield from (name.partition(".")[0] for name in names)


def test_everything_imported_belongs_to_an_extra():
    imported = {name for path in SRC.rglob("*.py") for name in imports(path)}
    assert "timm" in imported
    assert imported - {"involution", *WITH_TORCH, *WISHED_FOR, *PACKAGES} <= sys.stdlib_module_names


def test_the_message_names_the_package_and_the_extra(monkeypatch):
    require("timm", "rich")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert not is_installed("pycocotools")
    with pytest.raises(
        MissingExtra, match=r'^pycocotools is not installed; pip install "involution\[detect\]"$'
    ) as told:
        require("timm", "pycocotools")
    assert told.value.name == "pycocotools"
    with pytest.raises(MissingExtra, match=r'pip install "involution\[segment\]"$'):
        require("pycocotools", extra="segment")
    with pytest.raises(MissingExtra, match=r"^nowhere is not installed; pip install nowhere$"):
        require("nowhere")


_SCENES = ["train", "--recipe", "digit-scenes", "--model.name"]
_DIGITS = ["classify", "train", "--recipe", "digits", "--trainer.epochs", "1", "--data.workers", "0"]
# package -> commands that need it, as far as they get without a file of anybody's
NEEDED_BY = {
    "jsonargparse": [["info"], _DIGITS],
    "rich": [["info"], _DIGITS],
    "yaml": [["info"], _DIGITS],
    "timm": [
        *([task, "predict", "--checkpoint", "a.ckpt", "i.png"] for task in ("classify", "detect", "segment")),
        *(_DIGITS, ["detect", *_SCENES, "retinanet"], ["segment", *_SCENES, "upernet"], ["demo"], ["ablate"]),
        *(["cost", "--no-measure"], ["bench", "--quick"], ["convert", "a.ckpt", "b.ckpt"]),
        ["explain", "i.png", "--untrained", "rednet26"],
    ],
    "safetensors": [["convert", "a.ckpt", "b.safetensors"]],
    "torchvision": [_DIGITS, ["detect", *_SCENES, "retinanet"], ["classify", "eval", "--checkpoint", "a.ckpt"]],
    "PIL": [["explain", "i.png", "--untrained", "rednet26"]],
    "lightning": [_DIGITS, ["demo"], ["classify", "eval", "--checkpoint", "a.ckpt"]],
    "torchmetrics": [_DIGITS, ["demo"]],
    "tensorboard": [_DIGITS],
    "upath": [["classify", "train", "--data.spec", "webdataset:memory://bucket/train-0.tar"]],
    "webdataset": [["classify", "train", "--data.spec", "webdataset:a.tar", "--data.classes", "c.txt"]],
    "sklearn": [_DIGITS, ["demo"], ["app", "--checkpoint", "a.ckpt"]],
    "scipy": [["ablate"]],
    "matplotlib": [
        *(["ablate"], ["bench", "--quick"], ["cost", "--no-measure"], ["demo"]),
        *(["explain", "i.png", "--untrained", "rednet26"], ["app", "--checkpoint", "a.ckpt"]),
    ],
    "jinja2": [["demo"], _DIGITS],
    "markupsafe": [["demo"], _DIGITS],
    "pycocotools": [["detect", *_SCENES, "retinanet"], ["segment", *_SCENES, "semantic_fpn"]],
    "segmentation_models_pytorch": [["segment", "train", "--data.spec", "digit-scenes", "--model.name", "smp_fpn"]],
    "transformers": [["detect", *_SCENES, "detr"]],
    **{name: [[*_DIGITS, "--logger", name]] for name in sorted(SERVICES)},
    "ray": [["classify", "predict", "--checkpoint", "a.ckpt", "i.png", "--parts", "rows", "--engine", "ray"]],
    "pyarrow": [["classify", "predict", "--checkpoint", "a.ckpt", "i.png", "--parts", "rows"]],
    **{name: [["export", "a.ckpt", "--format", "onnx"]] for name in ("onnx", "onnxscript", "onnxruntime")},
    "openvino": [["export", "a.ckpt", "--format", "openvino"]],
    "nncf": [["export", "a.ckpt", "--format", "openvino", "--int8"]],
    **{
        name: [["serve", "a.ckpt"]]
        for name in ("uvicorn", "h11", "pydantic", "prometheus_client", "python_multipart", "contourpy")
    },
    "gradio": [["app", "--checkpoint", "a.ckpt"]],
    "starlette": [["app", "--checkpoint", "a.ckpt"], ["serve", "a.ckpt"]],
}
# what takes long to import, in an order in which each brings few of the packages
HEAVY = ["torchvision", "timm", "matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "torchmetrics", "lightning"]
# torch is imported once, and as much of the rest as does not bring the package; each command runs in a copy of the
# process in which the package can't be found
DRIVER = """
import importlib, json, os, sys
import torch, involution.ops
from involution.cli import main

class Absent:
    def __init__(self, package): self.package = package
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def copy():
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        return None, theirs
    os.close(theirs)
    return child, ours

def run(needed_by, heavy):
    if heavy:
        child, end = copy()
        if not child:
            importlib.import_module(heavy[0])
            late = [package for package in needed_by if package not in sys.modules]
            os.write(end, json.dumps(late).encode())
            os.close(end)
            run({package: needed_by[package] for package in late}, heavy[1:])
            os._exit(0)
        with open(end) as told:
            late = json.load(told)
        os.waitpid(child, 0)
        needed_by = {package: commands for package, commands in needed_by.items() if package not in late}
    for package, commands in needed_by.items():
        for words in commands:
            refuse(package, words)

def refuse(package, words):
    child, end = copy()
    if not child:
        os.dup2(end, 2)
        sys.meta_path.insert(0, Absent(package))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        code = 70
        try:
            code = main(words)
        finally:
            sys.stderr.flush()
            os._exit(code)
    with open(end) as told:
        said = told.read()
    print(json.dumps([package, words, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]), flush=True)

run(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    home = tmp_path_factory.mktemp("extras")
    Image.new("L", (8, 8)).save(home / "i.png")
    (home / "c.txt").write_text("a\nb\n")
    (home / "a.tar").touch()
    save_checkpoint(home / "a.ckpt")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(NEEDED_BY), json.dumps(HEAVY)],
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_every_package_is_tried():
    # torch has imported numpy already
    assert set(PACKAGES) - {"numpy"} == set(NEEDED_BY)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs copies of a process")
@pytest.mark.parametrize("package", NEEDED_BY)
def test_a_command_says_what_to_install(refusals, package):
    found = [(words, code, said) for missing, words, code, said in refusals if missing == package]
    assert len(found) == len(NEEDED_BY[package])
    for words, code, said in found:
        # what was read before may have been told
        wanted = rf'involution: {package} is not installed; pip install "involution\[\w+\]"\n'
        assert (code, bool(re.search(rf"^{wanted}\Z", said, re.M))) == (2, True), f"{words}: {code} {said[-600:]}"
