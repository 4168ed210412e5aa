"""Optional packages: every one is known, and a command that misses one says in one line how to install it."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from involution.extras import EXTRAS, MissingExtra, is_installed, require

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "involution"
FOR_DEVELOPERS = {"docs", "dev"}
# what torch itself brings
WITH_TORCH = {"torch", "triton", "typing_extensions"}
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
        if name in FOR_DEVELOPERS or distribution == "involution":
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
