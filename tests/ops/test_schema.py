"""The operators' schemas, and that any kernel may be added behind them without moving anything."""

import subprocess
import sys

import pytest
import torch

from involution.ops.schema import OPERATORS

GEOMETRY = "int[{d}] stride, int[{d}] padding, int[{d}] dilation"
DYNAMIC = "Tensor input, Tensor reduced, Tensor span_weight, Tensor? span_bias"
SCHEMAS = {
    "involution{d}d": "(Tensor input, Tensor weight, {geometry}) -> Tensor",
    "involution{d}d_grad_input": "(Tensor grad, Tensor weight, SymInt[{d}] input_size, {geometry}) -> Tensor",
    "involution{d}d_grad_weight": (
        "(Tensor grad, Tensor input, SymInt groups, SymInt[{d}] kernel_size, {geometry}) -> Tensor"
    ),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name, dims):
    op = getattr(torch.ops.involution, name.format(d=dims)).default
    wanted = f"involution::{name}{SCHEMAS[name]}".replace("{geometry}", GEOMETRY).format(d=dims)
    assert str(op._schema) == wanted
    assert torch.Tag.pt2_compliant_tag in op.tags


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("dynamic_involution2d", f"({DYNAMIC}, {GEOMETRY}) -> Tensor"),
        (
            "dynamic_involution2d_affine",
            f"({DYNAMIC}, {GEOMETRY}, Tensor? scale, Tensor? shift, bool relu) -> Tensor",
        ),
        (
            "dynamic_involution2d_backward",
            f"(Tensor grad, {DYNAMIC}, {GEOMETRY}, bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)",
        ),
    ],
)
def test_schema_of_the_fused_operators(name, rest):
    op = getattr(torch.ops.involution, name).default
    assert str(op._schema) == f"involution::{name}{rest.format(d=2)}"
    assert torch.Tag.pt2_compliant_tag in op.tags


def test_no_schema_is_left_out():
    names = {name.format(d=d) for name in SCHEMAS for d in (2, 3)}
    names |= {f"dynamic_involution2d{kind}" for kind in ("", "_affine", "_backward")}
    assert set(OPERATORS) == names


ADDED_KERNELS = """
import torch
from torch.library import Library
from torch.func import jvp, vmap

called = []
def kernel(name, plain):
    def run(*args):
        called.append(name)
        return plain(*args)
    return run

def take():
    names = sorted(set(called))
    called.clear()
    return names

import involution

library = Library("involution", "IMPL")
from involution.ops import reference
library.impl("involution2d", kernel("forward", reference.shift_forward), "CPU")
library.impl("involution2d_grad_input", kernel("grad_input", reference.shift_grad_input), "CPU")
library.impl("involution2d_grad_weight", kernel("grad_weight", reference.shift_grad_weight), "CPU")
from involution import involution2d

x = torch.randn(2, 4, 5, 5, requires_grad=True)
w = torch.randn(2, 2, 3, 3, 5, 5, requires_grad=True)
def call(x, w):
    return involution2d(x, w, padding=1)

out = call(x, w)
assert take() == ["forward"]
gradients = torch.autograd.grad(out.pow(2).sum(), (x, w), create_graph=True)
assert take() == ["grad_input", "grad_weight"]
gradients[0].pow(2).sum().backward()
assert take() == ["forward", "grad_input", "grad_weight"]
with torch.no_grad():
    call(x, w)
assert take() == ["forward"]
with torch.autocast("cpu", torch.bfloat16):
    half = call(x, w)
assert half.dtype == torch.bfloat16 and take() == ["forward"]
half.float().sum().backward()
assert take() == ["grad_input", "grad_weight"]
compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(x, w)
assert torch.equal(compiled, out) and "forward" in take()
compiled.sum().backward()
assert take() == ["grad_input", "grad_weight"]
jvp(call, (x.detach(), w.detach()), (x.detach(), w.detach()))
assert take() == ["forward"]
vmap(call, (0, None))(torch.randn(3, 2, 4, 5, 5), w)
assert take() == ["forward"]
torch.library.opcheck(torch.ops.involution.involution2d.default, (x, w, [1, 1], [1, 1], [1, 1]))
# dtypes and devices that the kernel does not serve stay with the plain form
assert call(x.detach().to("meta"), w.detach().to("meta")).shape == out.shape
print("done")
"""


def test_a_kernel_registered_later_is_called_everywhere():
    done = subprocess.run([sys.executable, "-c", ADDED_KERNELS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
