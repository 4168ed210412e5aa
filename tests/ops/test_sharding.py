"""Distributed tensors: two processes share the batch, or the groups, and get what one gets."""

import subprocess
import sys
import textwrap

import pytest
import torch

pytest.importorskip("torch.distributed.tensor")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")

SETTING = """
import os, sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)

import involution
from involution import Involution2d, dynamic_involution2d, involution1d, involution2d, involution3d
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import PrepareModuleInput, PrepareModuleOutput, parallelize_module
from torch.testing import assert_close

mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)

def randn(*size):
    return torch.randn(size, dtype=torch.float64, requires_grad=True)

def shared(tensor, placement):
    return distribute_tensor(tensor.detach(), mesh, [placement]).requires_grad_()

def check(function, tensors, placements, wanted):
    out = function(*tensors)
    grads = torch.autograd.grad(out.pow(2).sum(), tensors)
    parts = [shared(t, p) for t, p in zip(tensors, placements)]
    result = function(*parts)
    assert result.placements == (wanted,), result.placements
    assert_close(result.full_tensor(), out)
    for part, grad in zip(torch.autograd.grad(result.pow(2).sum(), parts), grads):
        assert_close(part.full_tensor(), grad)
"""


def run(tmp_path, program):
    code = SETTING + textwrap.dedent(program)
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    both = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in (0, 1)
    ]
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output


def test_operators(tmp_path):
    run(
        tmp_path,
        """
        batch, channel, every = Shard(0), Shard(1), Replicate()
        x, w = randn(4, 8, 5, 6), randn(4, 2, 3, 3, 5, 6)
        def two(x, w):
            return involution2d(x, w, padding=1)
        check(two, (x, w), (batch, batch), batch)
        check(two, (x, w), (channel, channel), channel)
        check(two, (x, w), (every, every), every)
        # what does not fit is moved
        check(two, (randn(4, 9, 5, 6), randn(4, 3, 3, 3, 5, 6)), (batch, every), batch)
        check(two, (x, randn(4, 1, 3, 3, 5, 6)), (channel, every), channel)
        check(lambda x, w: involution1d(x, w, padding=1), (randn(4, 8, 9), randn(4, 2, 3, 9)), (batch, batch), batch)
        volume = randn(2, 4, 3, 4, 5), randn(2, 2, 3, 3, 3, 3, 4, 5)
        check(lambda x, w: involution3d(x, w, padding=1), volume, (batch, batch), batch)
        check(lambda x, w: involution3d(x, w, padding=1), volume, (channel, channel), channel)

        def fused(*tensors):
            return dynamic_involution2d(*tensors, padding=1)
        tensors = x, randn(4, 3, 5, 6), randn(2, 3, 3, 3), randn(2, 3, 3)
        check(fused, tensors, (batch, batch, every, every), batch)
        check(fused, tensors, (channel, every, Shard(0), Shard(0)), channel)
        check(lambda *t: fused(*t[:3]), tensors[:3], (batch, batch, every), batch)

        def finished(*tensors):
            return dynamic_involution2d(*tensors[:4], padding=1, scale=tensors[4], shift=tensors[5])
        tensors = *tensors, randn(8), randn(8)
        check(finished, tensors, (batch, batch, every, every, every, every), batch)
        with torch.no_grad():
            parts = [shared(t, p) for t, p in zip(tensors, (channel, every, *[Shard(0)] * 4))]
            assert_close(finished(*parts).full_tensor(), finished(*tensors))
        """,
    )


def test_parallelize_module(tmp_path):
    run(
        tmp_path,
        """
        network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Involution2d(32, 3, norm_layer=None), nn.ReLU(),
                                Involution2d(32, 5, 1, norm_layer=None, bias=True)).double()
        x = torch.randn(4, 3, 6, 7, dtype=torch.float64)
        out = network(x)
        out.pow(2).sum().backward()
        grads = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        distribute_module(network, mesh)
        parallelize_module(network, mesh, PrepareModuleInput(input_layouts=Shard(0), desired_input_layouts=Shard(0)))
        mine = x.chunk(2)[dist.get_rank()]
        result = network(mine)
        assert isinstance(result, DTensor) and result.placements == (Shard(0),), result
        assert_close(result.full_tensor(), out)
        result.pow(2).sum().backward()
        for name, parameter in network.named_parameters():
            assert_close(parameter.grad.full_tensor(), grads[name])
        """,
    )


def test_nothing_is_imported_for_it():
    program = "import sys, involution; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
