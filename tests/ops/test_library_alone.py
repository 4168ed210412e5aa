"""The C++ library without this package: what it defines, both orders of loading, compiled packages."""

import os
import subprocess
import sys

import pytest
import torch

from involution.ops import native
from involution.ops.schema import OPERATORS

pytestmark = pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}")


def run(script, *arguments, **environment):
    """Run a script in a fresh process; of the operators nothing may be printed but by itself."""
    command = [sys.executable, "-c", script, str(native.LIBRARY_PATH), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "involution" not in done.stderr, done.stderr
    return done.stdout.splitlines()


ALONE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
for name in sys.argv[2:]:
    print(getattr(torch.ops.involution, name).default._schema)
x, reduced, span = torch.ones(1, 4, 3, 3), torch.ones(1, 2, 3, 3), torch.ones(2, 3, 3, 2)
y = torch.ops.involution.dynamic_involution2d_affine(
    x, reduced, span, None, [1, 1], [1, 1], [1, 1], None, torch.full([4], -10.0), True
)
assert not any(module.split(".")[0] == "involution" for module in sys.modules)
print(y[0, 0].int().tolist())
"""


def test_its_schemas_are_pythons():
    *schemas, values = run(ALONE, *OPERATORS)
    assert schemas == [str(getattr(torch.ops.involution, name).default._schema) for name in OPERATORS]
    # four taps inside in a corner, six at an edge, nine at the centre; each counts 2, and 10 are taken off
    assert values == "[[0, 2, 0], [2, 8, 2], [0, 2, 0]]"


LIBRARY_FIRST = """
import sys, torch
torch.ops.load_library(sys.argv[1])
early = torch.ops.involution.involution2d
x, w = torch.randn(1, 4, 5, 5), torch.randn(1, 2, 3, 3, 5, 5)
before = early(x, w, [1, 1], [1, 1], [1, 1])
import involution
from involution.ops import native
assert native.reason is None, native.reason
op = torch.ops.involution.involution2d.default
assert torch.Tag.pt2_compliant_tag in op.tags
assert torch.equal(early(x, w, [1, 1], [1, 1], [1, 1]), before)
assert torch.equal(involution.involution2d(x, w, padding=1), before)
torch.library.opcheck(op, (x.requires_grad_(), w, [1, 1], [1, 1], [1, 1]))
layer = involution.Involution2d(16, 3).eval()
torch.export.export(layer, (torch.randn(1, 16, 5, 5),))
print("done")
"""
PYTHON_FIRST = """
import sys, torch, involution
from involution.ops import native
assert native.reason == "INVOLUTION_NATIVE=0", native.reason
x, w = torch.randn(1, 4, 5, 5), torch.randn(1, 2, 3, 3, 5, 5)
plain = involution.involution2d(x, w, padding=1)
assert not torch._C._dispatch_has_kernel_for_dispatch_key("involution::involution2d", "CPU")
torch.ops.load_library(sys.argv[1])
assert torch._C._dispatch_has_kernel_for_dispatch_key("involution::involution2d", "CPU")
torch.testing.assert_close(involution.involution2d(x, w, padding=1), plain)
torch.library.opcheck(torch.ops.involution.involution2d.default, (x.requires_grad_(), w, [1, 1], [1, 1], [1, 1]))
print("done")
"""


def test_the_library_may_come_first():
    assert run(LIBRARY_FIRST) == ["done"]


def test_python_may_come_first():
    assert run(PYTHON_FIRST, INVOLUTION_NATIVE="0") == ["done"]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.span = torch.nn.Parameter(torch.randn(2, 3, 3, 4))

    def forward(self, x):
        reduced = x[:, :4].relu()
        op = torch.ops.involution.dynamic_involution2d_affine
        return op(x, reduced, self.span, None, [1, 1], [1, 1], [1, 1], None, self.span[0, 0].sum(0).repeat(8), True)


PACKAGE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
model = torch._inductor.aoti_load_package(sys.argv[2])
x = torch.load(sys.argv[3], weights_only=True)
torch.save(model(x), sys.argv[4])
assert not any(module.split(".")[0] == "involution" for module in sys.modules)
"""


def test_a_compiled_package_needs_the_library_alone(tmp_path):
    layer, x = Layer().eval(), torch.randn(2, 32, 7, 9)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
        torch.save(x, tmp_path / "x.pt")
        run(PACKAGE, package, tmp_path / "x.pt", tmp_path / "y.pt")
        torch.testing.assert_close(torch.load(tmp_path / "y.pt", weights_only=True), layer(x))
