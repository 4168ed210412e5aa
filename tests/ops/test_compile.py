"""torch.compile and torch.export see the operators whole."""

import pytest
import torch
from forms import unfold_form
from torch import nn
from torch.export import Dim
from torch.func import grad, jvp, vmap
from torch.testing import assert_close

from involution import Involution1d, Involution2d, Involution3d, dynamic_involution2d, involution2d

# PyTorch's own: dynamo wraps torch.autograd.Function by this; compiled code frees its buffers late
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def ours(x, w):
    return involution2d(x.relu(), w * 2, stride=2, padding=1).sin()


def by_unfold(x, w):
    return unfold_form(x.relu(), w * 2, (2, 2), (1, 1), (1, 1)).sin()


def tensors(size=(7, 6), batch=2):
    h, w = (-(-s // 2) for s in size)
    return [torch.randn(size, requires_grad=True) for size in [(batch, 4, *size), (batch, 2, 3, 3, h, w)]]


def dynamic_form(x, reduced, span_weight, span_bias):
    return dynamic_involution2d(x, reduced, span_weight, span_bias, padding="same").sin()


def dynamic_form_by_parts(x, reduced, span_weight, span_bias):
    weight = torch.einsum("guvr,nrij->nguvij", span_weight, reduced) + span_bias[None, ..., None, None]
    return unfold_form(x, weight, (1, 1), (1, 1), (1, 1)).sin()


backends = pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])


@backends
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_operator_compiles_whole(backend, dynamic, channels_last):
    compiled = torch.compile(ours, fullgraph=True, backend=backend, dynamic=dynamic)
    for size, batch in [((7, 6), 2), ((9, 11), 3)]:
        leaves = tensors(size, batch)
        if channels_last:
            x = leaves[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
            leaves = [x, leaves[1]]
        out, expected = compiled(*leaves), by_unfold(*leaves)
        assert_close(out, expected)
        assert out.stride() == ours(*leaves).stride()
        cotangent = torch.randn_like(expected)
        gradients = torch.autograd.grad(out, leaves, cotangent)
        assert_close(gradients, torch.autograd.grad(expected, leaves, cotangent))


@backends
def test_dynamic_form_compiles_whole(backend):
    leaves = [torch.randn(s, requires_grad=True) for s in [(2, 4, 5, 6), (2, 3, 5, 6), (2, 3, 3, 3), (2, 3, 3)]]
    out = torch.compile(dynamic_form, fullgraph=True, backend=backend)(*leaves)
    expected = dynamic_form_by_parts(*leaves)
    assert_close(out, expected)
    cotangent = torch.randn_like(out)
    assert_close(torch.autograd.grad(out, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent))


@backends
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "vmap_of_grad"])
def test_transforms_inside_compile(backend, transform):
    x, w = (t.detach() for t in tensors())
    x_t, w_t = torch.randn_like(x), torch.randn_like(w)

    def apply(function):
        if transform == "grad":
            return lambda x, w: grad(lambda *t: function(*t).sum(), (0, 1))(x, w)
        if transform == "vmap":
            return lambda x, w: vmap(lambda x, w: function(x[None], w[None]))(x, w)
        if transform == "jvp":
            return lambda x, w: jvp(function, (x, w), (x_t, w_t))
        return lambda x, w: vmap(grad(lambda x, w: function(x[None], w[None]).sum(), (0, 1)))(x, w)

    compiled = torch.compile(apply(ours), fullgraph=True, backend=backend)
    assert_close(compiled(x, w), apply(by_unfold)(x, w))


@backends
def test_autocast_inside_compile(backend):
    x, w = tensors()

    def function(x, w):
        with torch.autocast("cpu", torch.float16):
            return involution2d(x, w, stride=2, padding=1)

    out = torch.compile(function, fullgraph=True, backend=backend)(x, w)
    assert out.dtype == torch.float16
    assert_close(out, function(x, w))


@backends
def test_autocast_of_a_transform_inside_compile(backend):
    x, w = (t.detach() for t in tensors())

    def function(x, w):
        with torch.autocast("cpu", torch.bfloat16):
            return vmap(lambda x, w: involution2d(x[None], w[None], stride=2, padding=1)[0])(x, w)

    out = torch.compile(function, fullgraph=True, backend=backend)(x, w)
    assert out.dtype == torch.bfloat16
    # inductor may leave out roundings to the half type in between
    assert_close(out, function(x, w), rtol=2**-6, atol=2**-4)


@backends
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": ((6, 0), 0)}], ids=["stride2", "per-side"])
def test_module_compiles_whole_for_training(backend, options, channels_last):
    # odd sizes under stride repeat the border before pooling
    module = Involution2d(32, 7, bias=True, **options)
    x = torch.randn(2, 32, 9, 7)
    if channels_last:
        x, module = x.contiguous(memory_format=torch.channels_last), module.to(memory_format=torch.channels_last)
    leaves = [x.requires_grad_(), *module.parameters()]
    cotangent = torch.randn(module(x).shape)
    results = []
    for form in (torch.compile(module, fullgraph=True, backend=backend), module):
        out = form(x)
        results.append((out, *torch.autograd.grad(out, leaves, cotangent)))
    assert_close(*results, rtol=1e-4, atol=1e-4)


MODULES = {
    "1d": (Involution1d(16, 5, 2), (3, 16, 21)),
    "2d": (Involution2d(16, 7), (2, 16, 9, 11)),
    "2d-stride2": (Involution2d(16, 7, 2), (3, 16, 9, 11)),
    "2d-stride3": (Involution2d(16, 3, 3), (3, 16, 10, 11)),
    "2d-even-per-side": (Involution2d(16, 4, 1, ((1, 2), (2, 1))), (2, 16, 9, 11)),
    "2d-linear": (Involution2d(16, 3, reduction_ratio=None, bias=True), (2, 16, 7, 5)),
    "2d-projected": (Involution2d(8, 3, 2, out_channels=32), (2, 8, 7, 5)),
    "2d-reflect": (Involution2d(16, 5, padding_mode="reflect"), (2, 16, 9, 11)),
    "3d": (Involution3d(16, 3, 2), (1, 16, 5, 7, 9)),
}


@pytest.mark.parametrize("name", MODULES)
def test_static_export(name):
    module, size = MODULES[name]
    module.eval()
    x = torch.randn(size)
    program = torch.export.export(module, (x,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any(n.startswith("involution.involution") for n in names)
    assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("name", MODULES)
def test_export_with_dynamic_batch_and_odd_sizes(name):
    module, (batch, channels, *spatial) = MODULES[name]
    module.eval()
    names = ["L"] if len(spatial) == 1 else ["D", "H", "W"][-len(spatial) :]
    dims = {0: Dim("N", min=1, max=16), **{i + 2: Dim(n, min=5, max=512) for i, n in enumerate(names)}}
    x = torch.randn(max(batch, 2), channels, *spatial)
    program = torch.export.export(module, (x,), dynamic_shapes=(dims,))
    for other in ([5, 6, 7], [8, 13, 6], [17, 9, 12]):
        x = torch.randn(3, channels, *other[: len(spatial)])
        assert_close(program.module()(x), module(x))


def test_export_of_the_operator_itself_takes_other_sizes():
    class Applied(nn.Module):
        def forward(self, x, w):
            return involution2d(x, w, padding=1)

    n, h, w = Dim("N", min=1, max=8), Dim("H", min=3, max=64), Dim("W", min=3, max=64)
    sizes = ({0: n, 2: h, 3: w}, {0: n, 4: h, 5: w})
    arguments = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 3, 3, 5, 6)
    program = torch.export.export(Applied(), arguments, dynamic_shapes=sizes)
    x, weight = torch.randn(3, 4, 9, 7), torch.randn(3, 2, 3, 3, 9, 7)
    assert_close(program.module()(x, weight), unfold_form(x, weight, (1, 1), (1, 1), (1, 1)))


@pytest.mark.slow
def test_aotinductor_package_serves_other_batches(tmp_path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Involution2d(16, 7)

        def forward(self, x, w):
            return involution2d(self.layer(x), w, padding=1)

    def arguments(batch):
        return torch.randn(batch, 16, 9, 11), torch.randn(batch, 4, 3, 3, 9, 11)

    network = Network().eval()
    n = {0: Dim("N", min=1, max=8)}
    with torch.no_grad():
        program = torch.export.export(network, arguments(2), dynamic_shapes=(n, n))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "network.pt2"))
        package = torch._inductor.aoti_load_package(path)
        for batch in (2, 5):
            given = arguments(batch)
            assert_close(package(*given), network(*given))
