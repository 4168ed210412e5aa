"""The operators served by the GPU kernels as on a GPU: derivatives, opcheck, a training step of RedNet.

Where there is no GPU they are put on the CPU's key, by a program of its own: a registration can't be taken back.
"""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

pytest.importorskip("triton")

PROGRAM = """
    import torch
    from involution.ops import reference
    from involution.ops import backends
    from involution.ops.triton.record import BACKEND
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
        for name, kernel in BACKEND.kernels.items():
            kernel = backends.wrapped(BACKEND, name, kernel)
            LIBRARY.impl(getattr(torch.ops.involution, name).default, watched(name, kernel), "CPU")
    torch.manual_seed(0)
"""


def run(program, **environment):
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    environment = {**os.environ, "INVOLUTION_NATIVE": "0", "INVOLUTION_CUDA": "0", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opcheck():
    run("""
    x = torch.randn(2, 16, 5, 6, device=device, requires_grad=True)
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


def test_second_derivatives():
    run("""
    x = torch.randn(1, 4, 3, 3, device=device, requires_grad=True)
    r = torch.randn(1, 2, 3, 3, device=device, requires_grad=True)
    span = torch.randn(2, 3, 3, 2, device=device, requires_grad=True)
    leaves = x, r, span
    geometry = [1, 1], [1, 1], [1, 1]

    def twice(leaves):
        y = torch.ops.involution.dynamic_involution2d(*leaves, None, *geometry)
        grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)

    # neither the map nor anything else but what came in is kept for backward
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        torch.ops.involution.dynamic_involution2d(*leaves, None, *geometry)
    assert saved == [t.shape for t in leaves], saved

    # in double the plain forms serve
    truth = twice([t.detach().double().requires_grad_() for t in leaves])
    for one, other in zip(twice(leaves), truth):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)
    """)


def test_compile_sees_one_graph():
    run("""
    import involution
    x = torch.randn(1, 4, 3, 3, device=device, requires_grad=True)
    w = torch.randn(1, 2, 3, 3, 3, 3, device=device)
    r, span = torch.randn(1, 2, 3, 3, device=device), torch.randn(2, 3, 3, 2, device=device, requires_grad=True)

    def function(x, span):
        y = involution.dynamic_involution2d(involution.involution2d(x, w, padding=1), r, span, padding=1)
        return y.square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    one, other = (torch.autograd.grad(f(x, span), (x, span)) for f in (compiled, function))
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b)
    assert device == "cuda" or "dynamic_involution2d_backward" in called, called
    """)


def test_training_step_of_rednet():
    pytest.importorskip("timm")
    run("""
    import timm
    import involution.models
    network = timm.create_model("rednet_nano", num_classes=3).to(device)
    x = torch.randn(2, 3, 16, 16, device=device)

    def step(network, x):
        network.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), torch.tensor([0, 2], device=device))
        loss.backward()
        return loss, [p.grad.clone() for p in network.parameters()]

    import copy
    loss, grads = step(network, x)
    truth_loss, truth = step(copy.deepcopy(network).double(), x.double())
    torch.testing.assert_close(loss.double(), truth_loss, rtol=1e-4, atol=1e-5)
    for one, other in zip(grads, truth):
        torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=1e-3 * float(other.abs().max()) + 1e-6)
    assert device == "cuda" or "involution2d_grad_weight" in called, called
    """)


def test_import_leaves_triton_alone():
    program = "import sys, involution; assert 'triton' not in sys.modules; assert 'triton.language' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_triton_the_plain_forms_serve():
    # a finder that hides the package
    program = """
    import importlib.util
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *args: None if name == "triton" else found(name, *args)
    import torch
    from involution.ops import triton
    assert triton.reason == "triton is not installed"
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("involution::involution2d", "CUDA")
    """
    environment = {**os.environ, "INVOLUTION_CUDA": "0"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment)


def test_the_switch():
    program = """
    import torch
    from involution.ops import triton
    assert triton.reason == "INVOLUTION_TRITON=0"
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("involution::involution2d", "CUDA")
    """
    environment = {**os.environ, "INVOLUTION_TRITON": "0", "INVOLUTION_CUDA": "0"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment)
    environment["INVOLUTION_TRITON"] = "yes"
    done = subprocess.run(
        [sys.executable, "-c", "import involution, torch"], capture_output=True, text=True, env=environment
    )
    message = "INVOLUTION_TRITON must be 0 (never), 1 (always) or unset (if available); got 'yes'"
    assert done.stderr == f"involution:1: BackendWarning: {message}\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph():
    run("""
    x, w = torch.randn(2, 16, 8, 8, device=device), torch.randn(2, 1, 3, 3, 8, 8, device=device)
    op = lambda: torch.ops.involution.involution2d(x, w, [1, 1], [1, 1], [1, 1])
    truth = op()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op()
    graph.replay()
    torch.testing.assert_close(out, truth)
    """)
