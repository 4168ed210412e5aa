"""Sizes that a graph computes: whoever needs them reads them from the image that has them."""

import pytest
import torch
from torch import nn

from involution.export import LibraryError, openvino_library
from involution.export.graph import Graph, Input, trace
from involution.export.registry import Settings, get_format
from involution.export.resample import FitInside

pytest.importorskip("onnx")
pytest.importorskip("openvino")

from involution.export.onnx_program import to_onnx
from involution.export.onnx_sizes import read_sizes


class Peaks(nn.Module):
    """The largest values at each of two scales of a resized picture, as a detector of two stages has them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fit = FitInside(96, 160, 32, None)
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, 4, 1), nn.Conv2d(3, 3, 3, 8, 1)])

    def forward(self, picture):
        images, size = self.fit(picture.float())
        scores = [conv(images)[0].permute(1, 2, 0).flatten() for conv in self.convs]
        best = [one.topk(torch.sym_min(200, one.shape[0])).values for one in scores]
        return torch.cat(best), size


def graph():
    pixels = torch.randint(0, 256, (1, 3, 90, 130), dtype=torch.uint8)
    return Graph(Peaks().eval(), (Input("images", pixels, {2: "height", 3: "width"}),), ("peaks", "size"))


def test_height_and_width_are_read_once_each_in_an_order_that_can_run():
    model = to_onnx(trace(graph()), graph(), 20)
    before = len(model.graph.node)
    read_sizes(model)
    added = [node for node in model.graph.node if node.op_type == "Shape" and node.output[0].endswith("_read_shape")]
    assert len(added) == 2
    assert len(model.graph.node) == before + 6
    # each node reads what is there already
    there = {one.name for one in (*model.graph.input, *model.graph.initializer)} | {""}
    for node in model.graph.node:
        assert set(node.input) <= there
        there |= set(node.output)


def test_a_graph_without_computed_sizes_stays_as_it_is():
    images = Input("images", torch.rand(1, 3, 8, 8), {2: "height", 3: "width"})
    one = Graph(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (images,), ("features",))
    model = to_onnx(trace(one), one, 20)
    text = model.SerializeToString()
    read_sizes(model)
    assert model.SerializeToString() == text


def test_openvino_finds_the_values_of_pictures_of_any_size(tmp_path):
    try:
        openvino_library()
    except LibraryError as error:
        pytest.skip(str(error))
    get_format("openvino").write(graph(), "{}", tmp_path / "a.xml", Settings())
    run, network = get_format("openvino").load(tmp_path / "a.xml"), Peaks().eval()
    for height, width in ((90, 130), (300, 90), (60, 70)):
        picture = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            wanted = network(picture)
        found = run([picture])
        assert len(found[0]) > 100
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)
