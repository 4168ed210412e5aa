"""The examples of every docstring run as written."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import involution
import involution.models
import involution.nn

FINDER = doctest.DocTestFinder(exclude_empty=True)
# the first runs the command line when imported, the second is no Python module
LEFT_OUT = ("involution.__main__", "involution.ops.libinvolution_cpu")
MODULES = ["involution"] + [
    info.name
    for info in pkgutil.walk_packages(involution.__path__, "involution.")
    if not info.name.startswith(LEFT_OUT)
]
# a dictionary by name: a function that is exported twice runs once
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in FINDER.find(importlib.import_module(name), extraglobs={"torch": torch})
    if any(not example.options.get(doctest.SKIP) for example in test.examples)
}


# examples write their files into a folder of their own
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report = []
    runner.run(EXAMPLES[name], out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in (involution, involution.nn, involution.models) for name in package.__all__],
)
def test_every_public_name_has_an_example(package, name):
    documented = getattr(package, name)
    # registered models differ by name alone, reports and errors come from functions that show them
    if name.startswith("rednet") or name in ("CheckpointError", "CheckpointReport"):
        assert documented.__doc__
    else:
        assert f"{documented.__module__}.{documented.__qualname__}" in EXAMPLES
