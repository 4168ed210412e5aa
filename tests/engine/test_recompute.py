import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from engine_runs import FAST
from torch import nn
from torch.utils.data import default_collate

from involution.data.scenes import make_digit_scenes
from involution.engine import ClassifyConfig, DetectConfig, SegmentConfig, get_task, run, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.config import ConfigError
from involution.engine.recompute import recompute_blocks
from involution.engine.trainer import placement
from involution.engine.trunk import blocks
from involution.models.pyramid import Backbone
from involution.studies.harness import peak_memory


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


def steps(network, images):
    """Outputs, gradients and statistics of two steps."""
    found = []
    torch.manual_seed(2)
    for _ in range(2):
        network.zero_grad()
        output = network(images)
        output.float().square().sum().backward()
        found += [output, *(one.grad.clone() for one in network.parameters() if one.grad is not None)]
    return found + [buffer.clone() for buffer in network.buffers()]


def pair(network):
    """A network, and a copy of it that computes norms, activations and sums again."""
    again = copy.deepcopy(network)
    recompute_blocks(again, selective=True)
    return network, again


def assert_same_step(plain, again, images):
    wanted, found = steps(plain, images), steps(again, images)
    assert len(wanted) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert plain.state_dict().keys() == again.state_dict().keys()


def held(network, images):
    """Bytes that a forward pass has allocated at most."""
    return peak_memory(lambda: network(images).sum())


# of what is held in a forward pass, what is left
SHARES = {
    **{"rednet26": 0.8, "rednet26_conv": 0.87, "test_resnet": 0.95},
    **{"test_efficientnet": 0.7, "test_convnext": 0.6, "test_vit": 0.7},
}


@pytest.mark.parametrize("name", SHARES)
def test_selectively_the_same_step_with_less_kept(name):
    side = 160 if name == "test_vit" else 128
    images = torch.randn(2, 3, side, side, generator=torch.manual_seed(1))
    plain, again = pair(make(name))
    assert_same_step(plain, again, images)
    assert held(again, images) < SHARES[name] * held(plain, images)
    # in eval mode there is nothing to keep
    assert torch.equal(plain.eval()(images), again.eval()(images))


def test_selectively_in_bfloat16():
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    plain, again = pair(make("rednet26"))
    with torch.autocast("cpu", torch.bfloat16):
        assert held(again, images) < held(plain, images)

    class Cast(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            with torch.autocast("cpu", torch.bfloat16):
                return self.network(images)

    assert_same_step(Cast(plain), Cast(again), images)


def test_selectively_with_frozen_parts_stochastic_depth_and_torchvision():
    images = torch.randn(4, 3, 32, 32, generator=torch.manual_seed(1))
    assert_same_step(*pair(torchvision.models.resnet18().train()), images)
    network = timm.create_model("rednet26", drop_path_rate=0.5, num_classes=4).train()
    network.conv1.requires_grad_(False)
    network.layer1.requires_grad_(False).eval()
    assert_same_step(*pair(network), images)


class Loop(nn.Module):
    """Calls the blocks by itself, as some of timm's networks do for their features."""

    def __init__(self):
        super().__init__()
        self.stages = make("rednet26").layer2

    def forward(self, x):
        for block in self.stages:
            x = block(x)
        return x


def test_selectively_without_the_stages():
    images = torch.randn(2, 256, 32, 32, generator=torch.manual_seed(1))
    plain, again = pair(Loop())
    assert_same_step(plain, again, images)
    assert held(again, images) < held(plain, images)


class Levels(nn.Module):
    """Features of a network, as a detector takes them."""

    def __init__(self, name, levels):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = timm.create_model(name, features_only=True, out_indices=levels).train()

    def forward(self, x):
        return torch.cat([level.flatten(1) for level in self.trunk(x)], 1)


@pytest.mark.parametrize("name", ["rednet26", "test_resnet", "torchvision", "features"])
def test_the_stem_of_a_resnet(name):
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    if name == "torchvision":
        network = torchvision.models.resnet18().train()
    else:
        network = Levels("rednet26", (1, 2)) if name == "features" else make(name)
    plain, again = pair(network)
    replaced = copy.deepcopy(again)
    # as SyncBatchNorm takes a batch norm's place
    trunk, ours = ((one.trunk if name == "features" else one) for one in (replaced, plain))
    trunk.bn1 = copy.deepcopy(ours.bn1)
    assert_same_step(copy.deepcopy(plain), again, images)
    assert_same_step(plain, replaced, images)
    assert held(again, images) < 0.97 * held(replaced, images)


def test_a_stem_whose_activation_is_a_level():
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    assert_same_step(*pair(Levels("rednet26", (0, 2))), images)


def test_involutions_and_convolutions_are_computed_once():
    again = pair(make("rednet26"))[1]
    images = torch.randn(2, 3, 32, 32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        again(images).sum().backward()
    counts = Counter(event.name for event in profile.events())
    fused = [event for event in profile.events() if event.name == "involution::dynamic_involution2d"]
    # what computes is called from the mode; the call above it is also there when the output is given back
    computed = [event for event in fused if event.cpu_parent and event.cpu_parent.name == "PythonDispatchMode"]
    assert len(computed) == (9 if fused else 0)
    # the last convolution of each generator is part of the fused operator, where there is one
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in again.modules())
    assert counts["aten::_convolution"] == convolutions - len(computed)


@pytest.mark.slow
def test_selectively_compiled():
    images = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(1))
    plain, again = pair(make("rednet26"))
    again.compile(backend="aot_eager")
    for a, b in zip(steps(plain, images), steps(again, images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "scenes", {"train": 4, "val": 2})


CONFIGS = {"classify": ClassifyConfig, "detect": DetectConfig, "segment": SegmentConfig}


def training_step(task, scenes, folder, how):
    """Loss and gradients of the first step of a training, and the bytes that its forward pass has allocated at most."""
    changes = {"output": str(folder), "data.workers": 0, "trainer.precision": "32-true"}
    if task == "classify":
        changes |= {**FAST, "model.name": "rednet_nano", "data.image_size": 32, "data.batch_size": 16}
    else:
        changes |= {"data.spec": f"{'coco' if task == 'detect' else 'masks'}:{scenes}", "data.batch_size": 4}
    spec = get_task(task)
    recipe = "digits" if task == "classify" else "digit-scenes"
    config = CONFIGS[task].load(recipe, {**changes, "trainer.activation_checkpointing": how})
    data = run.open_data(spec, config)
    module = run.make_module(spec, config, data, 1, fresh=True).train()
    images = spec.train_set(config, data)
    alone = SimpleNamespace(global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    loader, _ = run.make_loaders(spec, config, data, images, alone, (0, 0))
    torch.manual_seed(0)
    collate = spec.collate or default_collate
    batch = collate([images[key] for key in next(iter(loader.batch_sampler))])
    torch.manual_seed(0)
    loss = module.training_step(batch, 0)
    loss.backward()
    gradients = [loss, *(one.grad for one in module.parameters() if one.grad is not None)]
    trunk = next((part.body for part in module.modules() if isinstance(part, Backbone)), module.model)
    inputs = torch.randn(4, 1 if task == "classify" else 3, 64, 64)
    return gradients, peak_memory(lambda: trunk(inputs))


@pytest.mark.parametrize("task", CONFIGS)
def test_every_task_has_it(task, scenes, tmp_path):
    wanted, most = training_step(task, scenes, tmp_path, False)
    found, least = training_step(task, scenes, tmp_path, "selective")
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert least < most


def test_a_training_goes_on_without_it(make_config, press_ctrl_c):
    def weights(name, how):
        config = make_config(name, trainer__activation_checkpointing=how, trainer__ema_decay=0.9)
        return config, lambda resume=None: train(config, progress=False, resume=resume).last

    whole = weights("whole", False)[1]()
    press_ctrl_c("training_step", 3)
    config, first = weights("parts", "selective")
    with pytest.raises(TrainingInterrupted):
        first()
    resumed = weights("parts", False)[1](config.run_dir / "last.ckpt")
    one, two = (torch.load(file, weights_only=True) for file in (whole, resumed))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())


def test_not_with_shared_out_weights(make_config):
    config = make_config(devices=2, trainer__strategy="fsdp", trainer__activation_checkpointing="selective")
    with pytest.raises(ConfigError, match=r"fsdp does not go with .*activation_checkpointing selective"):
        placement(config)
    # an evaluation has nothing to keep
    placement(config, whole=True)
