"""The import directions: each part of the package may import only what lies below it, and torch."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "involution"
MODULES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py"))

NETWORKS = {"ops", "nn", "models"}
TASKS = {"detection", "segmentation"}
WORK = {*NETWORKS, *TASKS, "data", "engine", "recipes"}
# what each part may import of ours; `involution` itself stands for the public names and the version
MAY_IMPORT = {
    "ops": set(),
    "nn": {"ops"},
    "models": {"ops", "nn", "involution"},
    "detection": {*NETWORKS},
    "segmentation": {*NETWORKS},
    "data": set(),
    "recipes": set(),
    "engine": {*NETWORKS, *TASKS, "data", "recipes", "involution"},
    "explain": {*WORK, "involution"},
    "predict": {*WORK, "involution"},
    "export": {*WORK, "involution"},
    "serve": {*WORK, "predict", "export", "involution"},
    "studies": {*WORK, "explain", "predict", "export", "involution"},
    "report": {*WORK, "explain", "predict", "involution"},
    "demo": {*WORK, "explain", "predict", "export", "studies", "report", "involution"},
    "app": {*WORK, "explain", "predict", "export", "serve", "involution"},
    "cli": {*WORK, "explain", "predict", "export", "studies", "demo", "report", "app", "serve", "involution"},
    "__main__": {"cli"},
    "__init__": {"ops", "nn", "after"},
    "interrupt": set(),
    "after": set(),
    "extras": set(),
    "plain": set(),
}
# of the standard library alone, and for every part
FOR_ALL = {"extras", "after", "interrupt", "plain"}
# imports that still close a circle
CIRCLES: list[tuple[str, str]] = []
# nobody but the engine knows the training library
ENGINE_ONLY = {"lightning", "pytorch_lightning", "torchmetrics"}


def imported(path):
    """Return every module that a file imports, at any depth of its code, absolute, with the names taken from it."""
    package = ["involution", *path.relative_to(SRC).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from involution import data` names the part only after the import
            yield from (f"{origin}.{alias.name}" for alias in node.names) if origin == "involution" else [origin]


def part_of(name):
    parts = name.split(".")
    if len(parts) == 1:
        return "involution"
    # a public name or the version, and not a part
    is_part = (SRC / parts[1]).is_dir() or (SRC / f"{parts[1]}.py").is_file()
    return parts[1] if is_part else "involution"


def own_part(module):
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_lies_below(module):
    part = own_part(module)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT where {part} stands"
    ours = {part_of(name) for name in imported(SRC / module) if name.split(".")[0] == "involution"}
    assert ours <= {part, *MAY_IMPORT[part], *FOR_ALL}


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if own_part(m) in ("ops", "nn", "__init__", "__main__", "after", "extras", "interrupt")],
)
def test_operator_and_modules_need_nothing_but_torch(module):
    # torch's GPU builds bring Triton and NVRTC; only what is called with the first launch needs them
    builds = {"ops/triton/kernels.py": "triton", "ops/cuda/compiler.py": "cuda"}
    allowed = {"involution", "torch", builds.get(module, "torch")}
    outside = {name.split(".")[0] for name in imported(SRC / module)} - allowed
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [m for m in MODULES if own_part(m) != "engine"])
def test_only_the_engine_uses_the_training_library(module):
    assert not ENGINE_ONLY & {name.split(".")[0] for name in imported(SRC / module)}


def without_type_checking(tree):
    """Every node of a syntax tree but what stands below ``if TYPE_CHECKING``."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        only_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        nodes += node.orelse if only_for_types else ast.iter_child_nodes(node)


def dependencies(root):
    """Module -> the modules of ours that it imports, at any depth of its code."""
    files = {}
    for path in root.rglob("*.py"):
        words = [root.name, *path.relative_to(root).with_suffix("").parts]
        files[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    graph = {}
    for module, path in files.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        found = set()
        for node in without_type_checking(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                origin = ".".join([*base, *([node.module] if node.module else [])])
                names = {f"{origin}.{alias.name}" for alias in node.names}
                found |= {name if name in files else origin for name in names}
        graph[module] = found & files.keys() - {module}
    return graph


def test_no_circles():
    graph = dependencies(SRC)
    for module, name in CIRCLES:
        # to be taken from the list when it is gone
        graph[module].remove(name)
    graphlib.TopologicalSorter(graph).prepare()


def test_a_circle_is_seen_wherever_it_is_imported(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text("from room.a import f\n")
    (room / "a.py").write_text("from . import b\n")
    (room / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.a import F\n")
    graphlib.TopologicalSorter(dependencies(room)).prepare()
    for late in ("from room.a import f", "from .a import f", "import room.a", "from room import f"):
        (room / "b.py").write_text(f"def g():\n    {late}\n")
        with pytest.raises(graphlib.CycleError, match="cycle"):
            graphlib.TopologicalSorter(dependencies(room)).prepare()


def test_the_parser_sees_relative_and_late_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    (tmp_path / "nn" / "deep").mkdir(parents=True)
    file = tmp_path / "nn" / "deep" / "module.py"
    file.write_text(
        "from ..layers import a\nfrom ...ops.checks import b\nfrom . import c\n"
        "def f():\n    import involution.data.images\n    from involution import models\n    from ... import engine\n"
    )
    assert list(imported(file)) == [
        "involution.nn.layers",
        "involution.ops.checks",
        "involution.nn.deep",
        "involution.data.images",
        "involution.models",
        "involution.engine",
    ]
