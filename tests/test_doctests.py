"""The examples of every docstring run as written."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import involution
import involution.nn
import involution.ops

FINDER = doctest.DocTestFinder(exclude_empty=True)
# every module whose examples need nothing but torch
MODULES = ["involution"] + [
    info.name
    for package in (involution.ops, involution.nn)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if info.name != "involution.ops.triton"
]
# a dictionary by name: a function that is exported twice runs once
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in FINDER.find(importlib.import_module(name), extraglobs={"torch": torch})
    if test.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report = []
    runner.run(EXAMPLES[name], out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", involution.__all__)
def test_every_public_name_has_an_example(name):
    documented = getattr(involution, name)
    assert f"{documented.__module__}.{documented.__qualname__}" in EXAMPLES
