"""Golden values of RedNet-26: a checkpoint filled by name, and what the authors' network makes of it."""

import ast
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    code = runpy.run_path(str(GOLDEN / "fill.py"))
    lines = (GOLDEN / "rednet26_keys.txt").read_text().splitlines()
    shapes = {name: ast.literal_eval(shape) for name, shape in (line.split(maxsplit=1) for line in lines)}
    state_dict = {name: torch.as_tensor(code["fill"](name, shape)) for name, shape in shapes.items()}
    values = json.loads((GOLDEN / "rednet26.json").read_text())
    return SimpleNamespace(state_dict=state_dict, image=code["image"], **values)
