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
