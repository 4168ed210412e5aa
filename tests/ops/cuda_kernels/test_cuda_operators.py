"""The operators served by the CUDA kernels: opcheck, derivatives, graphs, a training step of RedNet.

Where there is no GPU they are put on the CPU's key, by a program of its own: a registration can't be taken back.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from cuda_kernels import emulated

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and emulated.COMPILER is None, reason="needs a GPU or a C++ compiler"
)
PROGRAM = """
    import torch
    from involution.ops import backends, cuda
    from involution.ops.cuda.record import BACKEND
    from involution.ops.schema import LIBRARY

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    called = set()

    def watched(name, kernel):
        def call(*args):
            called.add(name)
            return kernel(*args)
        return call

    if device == "cpu":
        from cuda_kernels import emulated
        cuda.run = emulated.run
        cuda.product_in_float = lambda a, b: a.float() @ b.float()
        for name, kernel in BACKEND.kernels.items():
            kernel = backends.wrapped(BACKEND, name, kernel)
            LIBRARY.impl(getattr(torch.ops.involution, name).default, watched(name, kernel), "CPU")
    torch.manual_seed(0)
"""


def run(program):
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "INVOLUTION_NATIVE": "0", "INVOLUTION_TRITON": "0", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_opcheck():
    run("""
    x = torch.randn(2, 8, 5, 6, device=device, requires_grad=True)
    w = torch.randn(2, 2, 3, 3, 5, 6, device=device, requires_grad=True)
    r = torch.randn(2, 4, 5, 6, device=device, requires_grad=True)
    span, bias = (torch.randn(*s, device=device, requires_grad=True) for s in ((2, 3, 3, 4), (2, 3, 3)))
    geometry = [1, 1], [1, 1], [1, 1]
    ops = torch.ops.involution
    torch.library.opcheck(ops.involution2d.default, (x, w, *geometry))
    torch.library.opcheck(ops.involution2d_grad_input.default, (x, w, [5, 6], *geometry))
    torch.library.opcheck(ops.involution2d_grad_weight.default, (x, x, 2, [3, 3], *geometry))
    torch.library.opcheck(ops.dynamic_involution2d.default, (x, r, span, bias, *geometry))
    args = *(t.detach() for t in (x, r, span, bias)), *geometry, None, None, True
    torch.library.opcheck(ops.dynamic_involution2d_affine.default, args)
    args = x, x, r, span, bias, *geometry, [True, False, True, True]
    torch.library.opcheck(ops.dynamic_involution2d_backward.default, args)
    assert device == "cuda" or called == set(BACKEND.kernels), called
    """)


def test_training_step_of_rednet():
    pytest.importorskip("timm")
    run("""
    import copy
    import timm
    import involution.models
    network = timm.create_model("rednet_nano", num_classes=3).to(device)
    x = torch.randn(2, 3, 16, 16, device=device)

    def step(network, x):
        network.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), torch.tensor([0, 2], device=device))
        loss.backward()
        return loss, [p.grad.clone() for p in network.parameters()]

    with backends.choose_fused(True):
        loss, grads = step(network, x)
    truth_loss, truth = step(copy.deepcopy(network).double(), x.double())
    torch.testing.assert_close(loss.double(), truth_loss, rtol=1e-4, atol=1e-5)
    for one, other in zip(grads, truth):
        torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=1e-3 * float(other.abs().max()) + 1e-6)
    assert device == "cuda" or "dynamic_involution2d_backward" in called, called
    """)


def test_import_loads_no_compiler():
    program = "import sys, torch, involution.ops; assert 'cuda.bindings.nvrtc' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph():
    run("""
    x, r = (torch.randn(2, c, 8, 8, device=device) for c in (16, 4))
    span, bias = torch.randn(1, 3, 3, 4, device=device), torch.randn(1, 3, 3, device=device)
    op = lambda: torch.ops.involution.dynamic_involution2d(x, r, span, bias, [1, 1], [1, 1], [1, 1])
    truth = op()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op()
    graph.replay()
    torch.testing.assert_close(out, truth)
    """)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_than_the_current_gpu():
    run("""
    x, w = torch.randn(2, 16, 8, 8), torch.randn(2, 1, 3, 3, 8, 8)
    one, other = (
        torch.ops.involution.involution2d(x.to(d), w.to(d), [1, 1], [1, 1], [1, 1]) for d in ("cuda:0", "cuda:1")
    )
    torch.testing.assert_close(one.cpu(), other.cpu())
    """)
