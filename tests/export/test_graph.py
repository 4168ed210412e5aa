"""The traced program: each involution is one fused operator, and sizes stay open."""

import pytest
import timm
import torch
from torch import nn

import involution.models
from involution.export.errors import ExportError
from involution.export.graph import Graph, Input, input_shapes, trace
from involution.export.pixels import Dense

FUSED = torch.ops.involution.dynamic_involution2d_affine.default


def folded():
    network = timm.create_model("rednet_nano", num_classes=3, zero_init_last=False).eval()
    involution.models.fuse(network)
    return network


def test_every_involution_is_one_operator_and_the_batch_stays_open():
    network = folded()
    graph = Graph(Dense(network, None), (Input("images", torch.rand(2, 3, 32, 32), {0: "batch"}),), ("logits",))
    program = trace(graph)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(FUSED) == 7
    assert torch.ops.involution.involution2d.default not in targets
    assert input_shapes(graph) == [["batch", 3, 32, 32]]
    for batch in (1, 5):
        images = torch.rand(batch, 3, 32, 32)
        torch.testing.assert_close(program.module()(images)[0], network(images))


class Cropped(nn.Module):
    """Fills images up to multiples of 32 and crops the results, as segmentation-models-pytorch's networks here."""

    def __init__(self):
        super().__init__()
        self.conv, self.grow = nn.Conv2d(3, 4, 3, 4, 1), nn.UpsamplingBilinear2d(scale_factor=4)

    def forward(self, x):
        height, width = x.shape[-2:]
        padded = nn.functional.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        return self.grow(self.conv(padded))[..., :height, :width]


def test_a_crop_that_is_the_whole_of_the_example_stays_a_crop():
    network = Cropped().eval()
    images = Input("images", torch.rand(2, 3, 64, 96), {0: "batch", 2: "height", 3: "width"})
    program = trace(Graph(Dense(network, None), (images,), ("logits",))).module()
    for size in ((64, 96), (50, 70), (33, 128)):
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(program(x)[0], network(x))


class Anchored(nn.Module):
    """Has a constant that is neither a parameter nor a buffer, as torchvision's anchors are."""

    def __init__(self):
        super().__init__()
        self.sides = torch.rand(4)

    def forward(self, x):
        return x + self.sides.to(x.dtype)


def test_a_constant_is_read_by_what_computes_alone():
    network, x = Anchored(), torch.rand(2, 4)
    program = trace(Graph(Dense(network, None), (Input("images", x),), ("sums",)))
    (constant,) = program.graph_signature.inputs_to_lifted_tensor_constants
    (node,) = (node for node in program.graph.nodes if node.name == constant)
    assert not [user for user in node.users if user.target == torch.ops.aten._assert_tensor_metadata.default]
    torch.testing.assert_close(program.module()(x)[0], network(x))


def test_a_size_that_the_network_fixes_is_told():
    network = nn.Linear(8, 2)
    images = Input("images", torch.rand(2, 3, 8, 8), {0: "batch", 2: "height", 3: "width"})
    with pytest.raises(ExportError, match="can't leave the width open; give a --size"):
        trace(Graph(Dense(network, None), (images,), ("logits",)))


def test_a_network_that_cannot_be_traced_is_told_in_one_line():
    class Counts(nn.Module):
        def forward(self, x):
            return x * float(x.sum()) if x.sum() > 0 else x

    with pytest.raises(ExportError, match="can't trace this network: ") as told:
        trace(Graph(Dense(Counts(), None), (Input("images", torch.rand(1, 3, 8, 8)),), ("logits",)))
    assert "\n" not in str(told.value)
