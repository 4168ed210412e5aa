"""`import involution` costs next to nothing beyond `import torch`."""

import subprocess
import sys

import pytest

import involution

# parts that torch itself puts off, the FLOP counter with triton and sympy behind it
LAZY = {"torch.utils.flop_counter", "torch._dynamo", "torch._inductor", "torch.onnx"}

HEAVY = {"torch", "numpy", "PIL", "timm", "torchvision", "lightning", "matplotlib", "scipy", "sklearn", "transformers"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_imports_nothing_beyond_torch():
    # torch may have loaded some of it itself
    code = "import sys, torch; had = set(sys.modules); import involution; print(*set(sys.modules) - had)"
    added = set(run(code).split())
    assert "involution.ops" in added
    assert not added & LAZY
    assert {name.partition(".")[0] for name in added} <= {"involution", "torch", *sys.stdlib_module_names}


def test_torch_is_imported_when_it_is_needed():
    added = set(run("import sys; had = set(sys.modules); import involution; print(*set(sys.modules) - had)").split())
    assert "involution" in added
    assert "torch" not in added


@pytest.mark.parametrize(
    "code",
    [
        "import involution, torch; print(torch.ops.involution.involution2d)",
        "import torch, involution; print(torch.ops.involution.involution2d)",
        "import involution; print(involution.ops.involution2d, involution.nn.Involution2d)",
        "from involution import *; print(Involution2d, involution2d)",
        "from involution.ops.functional import involution2d; import involution; print(involution.involution2d)",
        "from involution.nn import Involution2d; import involution; print(involution.involution2d)",
        "from involution import nn, models; print(nn, models)",
    ],
)
def test_whatever_is_asked_for_first_is_there(code):
    assert "involution2d" in run(code) or "involution/models" in run(code)


def test_a_compiled_function_may_ask_first():
    code = """
import involution, torch

@torch.compile(fullgraph=True, backend="eager")
def f(x, weight):
    return involution.involution2d(x, weight, padding=1)

print(tuple(f(torch.rand(1, 4, 5, 5), torch.rand(1, 1, 3, 3, 5, 5)).shape))
"""
    assert run(code) == "(1, 4, 5, 5)\n"


def test_takes_a_small_part_of_torchs_time():
    # processor time and the best of several: another program on the machine must not count
    code = """
import time
start = time.process_time()
import torch
between = time.process_time()
import involution
print((time.process_time() - between) / (between - start))
"""
    shares = []
    for _ in range(5):
        shares.append(float(run(code)))
        if shares[-1] < 0.05:
            return
    pytest.fail(f"import involution took {min(shares):.1%} of the processor time that import torch took")


def test_help_and_refusals_of_every_command_import_nothing_heavy():
    # nor does `--help-all`, which shows the same options
    code = f"""
import contextlib, io, sys
from involution.cli import commands, main

for command in commands():
    for more in (["--help"], ["--nonsense"], ["--output"]):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([*command, *more])
        found = {HEAVY!r} & set(sys.modules)
        assert not found, (command, more, found)
        assert code == (0 if more == ["--help"] else 2), (command, more, said.getvalue())
print(len(commands()))
"""
    assert int(run(code)) > 15


def test_public_names():
    assert involution.__version__
    for name in involution.__all__:
        assert getattr(involution, name).__doc__
        assert name in dir(involution)
    with pytest.raises(AttributeError, match="module 'involution' has no attribute 'involution4d'"):
        _ = involution.involution4d
