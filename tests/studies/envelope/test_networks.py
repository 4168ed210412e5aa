"""The networks that are compared: RedNet, its twin, and what differs from them in the bottlenecks alone."""

import pytest
import timm
import torch
from torch import nn

from involution import Involution2d
from involution.studies.envelope import networks
from involution.studies.envelope.networks import CONVOLUTION, DEPTHWISE, FAMILIES, LAST, NOT_LAST, REDNET, WIDTHS


def shapes(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize(("family", "model"), [(REDNET, "rednet_nano"), (CONVOLUTION, "rednet_nano_conv")])
def test_both_ends_are_the_registered_models(family, model):
    other = timm.create_model(model, layers=(1, 1, 1), in_chans=1, num_classes=10)
    assert shapes(networks.build(family, 16)) == shapes(other)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        (CONVOLUTION, ["3×3"] * 3),
        (DEPTHWISE, ["depthwise"] * 3),
        (REDNET, ["involution"] * 3),
        (NOT_LAST, ["involution", "involution", "3×3"]),
        (LAST, ["3×3", "3×3", "involution"]),
    ],
)
def test_what_each_stage_has(family, kinds):
    network = networks.build(family, 16)

    def kind(layer):
        if isinstance(layer, Involution2d):
            assert layer.kernel_size == (7, 7)
            return "involution"
        depthwise = layer.groups == layer.in_channels
        assert layer.kernel_size == ((7, 7) if depthwise else (3, 3))
        return "depthwise" if depthwise else "3×3"

    assert [kind(getattr(network, f"layer{stage}")[0].conv2) for stage in (1, 2, 3)] == kinds


@pytest.mark.parametrize("family", FAMILIES)
def test_every_width_is_trained(family):
    for width in WIDTHS:
        network = networks.build(family, width)
        network(torch.randn(2, 1, 16, 16)).sum().backward()
        assert all(value.grad is not None for value in network.parameters())
        assert isinstance(network.fc, nn.Linear)


def test_costs():
    parameters, macs = networks.cost(REDNET, 16)
    network = networks.build(REDNET, 16)
    assert parameters == sum(value.numel() for value in network.parameters()) == 90930
    assert macs == 5368832
    assert all(
        networks.cost(family, 16) < networks.cost(CONVOLUTION, 16) for family in FAMILIES if family != CONVOLUTION
    )
