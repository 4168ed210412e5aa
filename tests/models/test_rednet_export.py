import pytest
import timm
import torch
from tolerances import NETWORK
from torch.export import Dim, export

from involution.models import RedNet


@pytest.fixture(scope="module")
def rednet26():
    torch.manual_seed(0)
    return timm.create_model("rednet26", num_classes=3, zero_init_last=False).eval()


def test_export_static(rednet26):
    images = torch.rand(1, 3, 65, 97)
    program = export(rednet26, (images,))
    torch.testing.assert_close(program.module()(images), rednet26(images))


def test_export_with_dynamic_sizes(rednet26):
    # an output of size 1 would be a special case of its own: 33 pixels are two at stride 32
    dims = {0: Dim("n", min=1, max=64), 2: Dim("h", min=33, max=1024), 3: Dim("w", min=33, max=1024)}
    program = export(rednet26, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(dims,))
    dynamic = program.module()
    for shape in [(2, 3, 64, 96), (1, 3, 65, 97), (3, 3, 47, 33), (1, 3, 34, 50)]:
        images = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(dynamic(images), rednet26(images))


@pytest.mark.slow
def test_compile_without_graph_breaks():
    torch.manual_seed(0)
    model = RedNet((1, 1), channels=(16, 16), stem_width=16, small_input=True, num_classes=2, zero_init_last=False)
    model.double()
    compiled = torch.compile(model, fullgraph=True)
    images = torch.rand(2, 3, 17, 16, dtype=torch.float64)
    expected = model(images)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    output = compiled(images)
    output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **NETWORK[torch.float64])


def test_trace_without_graph_breaks():
    # what torch.compile(fullgraph=True) needs, without the compiler's minute
    torch.manual_seed(0)
    model = timm.create_model("rednet_nano", zero_init_last=False).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.rand(1, 3, 17, 16)
    torch.testing.assert_close(compiled(images), model(images))
