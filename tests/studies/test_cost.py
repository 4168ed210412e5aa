"""What networks cost, by PyTorch's counter and as the authors count, beside the published figures."""

import pytest
import timm
import torch
from torch import nn

from involution import Involution2d
from involution.studies.cost import authors_cost, multiply_adds, published_networks

README = {"rednet26": 1.73, "rednet38": 2.22, "rednet50": 2.71, "rednet101": 4.74, "rednet152": 6.79}


@pytest.mark.parametrize("name", README)
def test_classifiers_published_flops(name):
    with torch.device("meta"):
        model, image = timm.create_model(f"{name}_stem7").eval(), torch.empty(1, 3, 224, 224)
    cost = authors_cost(model, lambda: model.forward_features(image))
    assert round(cost.total / 1e9, 2) == README[name]
    assert multiply_adds(lambda: model.forward_features(image)) == cost.multiply_adds + cost.involution


def test_a_small_network_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Involution2d(16, 7, stride=2),
        nn.ConvTranspose2d(16, 4, 2, 2),
        nn.Upsample(scale_factor=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )
    x = torch.rand(2, 3, 8, 8)
    cost = authors_cost(network, lambda: network(x))
    # generator: 16 → 4 → 49 on 2×2 positions; two images
    assert cost.multiply_adds == 2 * (16 * 64 * 27 + 4 * (16 * 4 + 4 * 49) + 16 * 4 * 4 * 4 + 256 * 5)
    assert cost.involution == 2 * 16 * 4 * 49
    assert cost.bias == 2 * (16 * 64 + 49 * 4 + 4 * 16)
    assert (cost.norm, cost.generator_norm, cost.activation) == (0, 2 * 2 * 16, 2 * (16 * 64 + 16))
    assert (cost.pooling, cost.upsampling) == (2 * (16 * 64 + 16 * 16), 2 * 4 * 64)
    assert multiply_adds(lambda: network(x)) == cost.multiply_adds + cost.involution
    assert not any(module._forward_hooks for module in network.modules())


# multiply-adds and the authors' count, in thousand millions
COUNTED = {
    "RetinaNet, convolution neck": (209.626, 210.609),
    "RetinaNet, involution neck": (198.901, 199.899),
    "Faster R-CNN, convolution neck": (177.424, 178.381),
    "Faster R-CNN, involution neck": (134.013, 135.031),
    "Faster R-CNN, involution neck and head": (90.469, 91.548),
    "Mask R-CNN, convolution neck": (230.430, 231.474),
    "Mask R-CNN, involution neck": (187.019, 188.124),
    "Mask R-CNN, involution neck and head": (103.435, 104.657),
    "Semantic FPN, convolution neck": (292.929, 294.954),
    "Semantic FPN, involution neck": (204.023, 206.173),
    "UPerNet": (1824.490, 1827.020),
}


@pytest.mark.slow
def test_published_detectors_and_segmenters():
    found = {cost.name: cost for cost in published_networks()}
    assert found.keys() == COUNTED.keys()
    for name, (macs, authors) in COUNTED.items():
        cost = found[name]
        assert cost.multiply_adds == pytest.approx(macs, abs=6e-4), name
        assert cost.authors.total / 1e9 == pytest.approx(authors, abs=6e-4), name
        # published to one decimal
        assert cost.explained == pytest.approx(cost.published, abs=0.06), name
