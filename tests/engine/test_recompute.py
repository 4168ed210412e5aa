import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution.engine.config import ConfigError
from involution.engine.recompute import recompute_blocks
from involution.engine.trunk import blocks


def kept(network, images):
    """Bytes that a forward pass keeps for the backward pass, and the gradients, statistics and outputs of two steps."""
    sizes, found = {}, []

    def note(value):
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    for _ in range(2):
        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            output = network(images)
        output.square().sum().backward()
        found += [output, *(one.grad.clone() for one in network.parameters()), *map(torch.clone, network.buffers())]
    return sum(sizes.values()), found


def make(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
    return network.train()


@pytest.mark.parametrize("name", ["rednet26", "test_resnet", "test_vit"])
def test_the_same_step_with_less_kept(name):
    images = torch.randn(2, 3, *((160, 160) if name == "test_vit" else (32, 32)), generator=torch.manual_seed(1))
    plain, again = make(name), make(name)
    recompute_blocks(again)
    torch.manual_seed(2)
    most, wanted = kept(plain, images)
    torch.manual_seed(2)
    least, found = kept(again, images)
    # batch norms count a batch once, dropout draws the same
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert least < 0.6 * most
    # in eval mode there is nothing to keep
    assert torch.equal(plain.eval()(images), again.eval()(images))


def test_a_network_without_blocks():
    with pytest.raises(ConfigError, match="the backbone of Conv2d is not made of blocks"):
        recompute_blocks(nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize(("name", "count"), [("rednet26", 9), ("test_vit", 6), ("test_efficientnet", 5)])
def test_blocks(name, count):
    found = blocks(timm.create_model(name))
    assert len(found) == count
    assert not any(one in other.modules() for one in found for other in found if one is not other)


@pytest.mark.slow
def test_compiled():
    images = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(1))
    plain, again = make("rednet26"), make("rednet26")
    recompute_blocks(again)
    again.compile(backend="aot_eager")
    wanted, found = kept(plain, images)[1], kept(again, images)[1]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(wanted, found, strict=True))
