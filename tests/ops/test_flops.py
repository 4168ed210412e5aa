import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from involution import Involution2d, dynamic_involution2d, involution1d, involution2d, involution3d


def count(function, *tensors):
    with FlopCounterMode(display=False) as counter:
        out = function(*tensors)
    return counter.get_total_flops(), out


@pytest.mark.parametrize(
    ("function", "sizes", "multiply_adds"),
    [
        (lambda x, w: involution1d(x, w, stride=2, padding="same"), [(2, 6, 9), (2, 3, 5, 5)], 2 * 5 * 6 * 5),
        (
            lambda x, w: involution2d(x, w, stride=2, padding="same"),
            [(2, 6, 7, 5), (2, 3, 3, 5, 4, 3)],
            2 * 3 * 5 * 6 * 4 * 3,
        ),
        (involution3d, [(2, 4, 5, 6, 7), (2, 1, 2, 3, 3, 4, 4, 5)], 2 * 2 * 3 * 3 * 4 * 4 * 4 * 5),
    ],
    ids=["1d", "2d", "3d"],
)
def test_multiply_adds_of_forward_and_backward(function, sizes, multiply_adds):
    leaves = [torch.randn(size, requires_grad=True) for size in sizes]
    flops, out = count(function, *leaves)
    assert flops == 2 * multiply_adds
    assert count(lambda: torch.autograd.grad(out.sum(), leaves, retain_graph=True))[0] == 2 * flops
    x, w = leaves[0].detach(), leaves[1]
    _, out = count(function, x, w)
    assert count(lambda: torch.autograd.grad(out.sum(), w))[0] == flops


def test_dynamic_form_counts_span_and_aggregation():
    leaves = [torch.randn(size, requires_grad=True) for size in [(2, 6, 7, 5), (2, 4, 7, 5), (3, 3, 5, 4)]]
    span, aggregation = 2 * 2 * 35 * 3 * 15 * 4, 2 * 2 * 6 * 15 * 35
    flops, out = count(lambda *t: dynamic_involution2d(*t, padding="same"), *leaves)
    assert flops == span + aggregation
    # the map again, the gradients of reduced features and span weight; of input and map
    assert count(lambda: torch.autograd.grad(out.sum(), leaves))[0] == 3 * span + 2 * aggregation


def test_module_counts_its_convolutions_and_the_operator():
    x = torch.randn(2, 32, 8, 8)
    flops, _ = count(Involution2d(32, 7).eval(), x)
    assert flops == 2 * 2 * 64 * (32 * 8 + 8 * 2 * 49 + 49 * 32)


def test_count_on_meta():
    x, w = torch.empty(1, 64, 512, 512, device="meta"), torch.empty(1, 4, 7, 7, 512, 512, device="meta")
    assert count(lambda: involution2d(x, w, padding=3))[0] == 2 * 49 * 64 * 512 * 512


@pytest.mark.parametrize(
    "imports",
    [
        "import involution; from torch.utils.flop_counter import FlopCounterMode",
        "from torch.utils.flop_counter import FlopCounterMode; import involution",
    ],
    ids=["involution-first", "counter-first"],
)
def test_either_import_may_come_first(imports):
    code = f"""
import torch
{imports}
with FlopCounterMode(display=False) as counter:
    involution.involution2d(torch.randn(1, 2, 4, 4), torch.randn(1, 1, 3, 3, 2, 2))
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 9 * 2 * 4
