"""DETR and Conditional DETR on RedNet."""

import socket
import sys

import pytest
import timm
import torch
from tolerances import NETWORK
from torch import nn
from torchvision.ops import box_convert
from transformers import AutoModelForObjectDetection
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from involution.detection import Detr, conditional_detr, detr, first_label
from involution.extras import MissingExtra
from involution.models.pyramid import Backbone
from involution.nn import Involution2d

SMALL = {
    "min_size": 64,
    "max_size": 96,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 6,
    "auxiliary_loss": True,
}
TARGETS = [
    {"boxes": torch.tensor([[4.0, 4, 40, 30], [30, 20, 60, 62]]), "labels": torch.tensor([0, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing may be downloaded."""

    def refuse(*args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def small_backbone(**kwargs):
    return Backbone("rednet_nano", (3,), model_args={"small_input": False}, **kwargs)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "nano.pth"
    model = timm.create_model("rednet_nano")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_mean)
    torch.save(model.state_dict(), file)
    return file


@pytest.mark.parametrize("build", [detr, conditional_detr])
def test_trains_a_step_and_detects(build):
    model = build(3, small_backbone(), **SMALL)
    assert first_label(model) == 0
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        loss = sum(model(images, TARGETS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # every trained part takes part
    assert all(p.grad is not None for p in model.parameters())
    for found, image in zip(model.eval()(images), images, strict=True):
        assert set(found) == {"boxes", "labels", "scores"}
        assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"]) > 0
        assert found["labels"].min() >= 0
        assert found["labels"].max() <= 2
        assert (found["scores"].diff() <= 0).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"][:, 2] <= image.shape[2]).all()
        assert (found["boxes"][:, 3] <= image.shape[1]).all()


@pytest.mark.parametrize("build", [detr, conditional_detr])
def test_padding_changes_nothing(build):
    """An image beside a larger one is masked: what is found does not depend on its neighbour."""
    model = build(3, small_backbone(norm="group"), **SMALL).eval()
    # convolutions see the padding at the border: leave them out
    model.network.model.backbone.model = Blocks(model.backbone.channels[-1])
    image = torch.rand(3, 64, 64)
    alone, beside = model([image])[0], model([image, torch.rand(3, 64, 96)])[0]
    for name in alone:
        torch.testing.assert_close(beside[name], alone[name], **NETWORK[torch.float32])


class Blocks(nn.Module):
    """A backbone of stride 16 without any view beyond the block."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 16, 16)

    def forward(self, x):
        return [self.layer(x)]


def test_boxes_reach_the_loss_in_shares_of_the_image(monkeypatch):
    model = detr(3, small_backbone(), **SMALL)
    seen = {}

    def forward(pixels, pixel_mask, labels):
        seen.update(mask=pixel_mask, labels=labels)
        raise InterruptedError

    monkeypatch.setattr(model.network, "forward", forward)
    with pytest.raises(InterruptedError):
        # the first is enlarged twice, the second is not
        model([torch.rand(3, 32, 40), torch.rand(3, 64, 64)], TARGETS)
    whole = torch.tensor([40.0, 32, 40, 32])
    wanted = box_convert(TARGETS[0]["boxes"], "xyxy", "cxcywh") / whole
    torch.testing.assert_close(seen["labels"][0]["boxes"], wanted)
    assert seen["mask"].sum((1, 2)).tolist() == [64 * 80, 64 * 64]
    assert seen["mask"][1, :64, :64].all()


def test_frozen_backbone_counts_the_generators_norms(weights):
    norms = [module for module in small_backbone().modules() if isinstance(module, nn.BatchNorm2d)]
    model = detr(3, small_backbone(weights=weights), **SMALL)
    frozen = [module for module in model.modules() if isinstance(module, DetrFrozenBatchNorm2d)]
    assert len(frozen) == len(norms)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    generators = [module.generator for module in model.backbone.modules() if isinstance(module, Involution2d)]
    # six blocks and the stem
    assert len(generators) == 7
    assert all(isinstance(generator.norm, DetrFrozenBatchNorm2d) for generator in generators)
    still = {name.split(".")[1] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert {"conv1", "layer1"} <= still
    assert not {"layer2", "layer3"} & still
    # the values are the file's
    state, trained = model.backbone.body.state_dict(), torch.load(weights, weights_only=True)
    assert all(torch.equal(state[name], trained[name]) for name in state)


def test_nothing_is_frozen_from_scratch(weights):
    for body in (small_backbone(), small_backbone(weights=weights, freeze=False)):
        model = detr(3, body, **SMALL)
        assert not any(isinstance(module, DetrFrozenBatchNorm2d) for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())


def test_any_network_of_timm_serves_as_backbone():
    model = conditional_detr(3, Backbone("resnet18", (3,)), **SMALL).eval()
    with torch.no_grad():
        assert len(model([torch.rand(3, 64, 64)])[0]["boxes"]) == 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 or more"),
        ({"anchor_sizes": [3]}, "Detr has no argument .anchor_sizes."),
        ({"d_model": "wide"}, "Detr can.t be built: .*d_model"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        detr(**{"num_classes": 3, "backbone": small_backbone(), **SMALL, **arguments})


def test_training_wants_targets():
    with pytest.raises(ValueError, match="training needs targets"):
        detr(3, small_backbone(), **SMALL)([torch.rand(3, 64, 64)])


def test_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers is not installed; pip install .involution\[transformers\]"):
        detr(3, small_backbone())


def test_the_head_is_all_but_the_backbone():
    model = detr(3, small_backbone(), **SMALL)
    head = {id(parameter) for parameter in model.head_parameters()}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    assert found == {name for name, _ in model.named_parameters() if ".backbone." not in name}
    assert "network.class_labels_classifier.bias" in found


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("build", [detr, conditional_detr])
def test_is_saved_and_loaded_by_transformers(build, frozen, weights, tmp_path):
    body = small_backbone(weights=weights) if frozen else small_backbone()
    model = build(3, body, **SMALL, image_mean=(0.5, 0.4, 0.3)).eval()
    model.save_pretrained(tmp_path)
    again = Detr.from_pretrained(tmp_path)
    assert type(again.network) is type(model.network)
    state = model.network.state_dict()
    assert list(again.network.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in again.network.state_dict().items())
    still = [name for name, p in again.network.named_parameters() if not p.requires_grad]
    assert still == [name for name, p in model.network.named_parameters() if not p.requires_grad]
    assert bool(still) == frozen
    images = [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]
    with torch.no_grad():
        for found, wanted in zip(again(images), model(images), strict=True):
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    # the config says which network it is, in transformers' own way
    network = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert network.config.backbone_config.name == "rednet_nano"
    assert network.config.backbone_config.model_args == {"small_input": False}


def test_what_is_no_saved_detector(tmp_path):
    with pytest.raises(ValueError, match="no such folder: "):
        Detr.from_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match=rf"no detector of transformers in {tmp_path}: Unrecognized model"):
        Detr.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone_config": {"model_type": "timm_backbone"}},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"backbone_kwargs": {"pretrained": True}},
        {"use_pretrained_backbone": True},
        {"_name_or_path": "facebook/detr-resnet-50"},
    ],
)
def test_takes_nothing_that_reads_or_chooses_code(arguments):
    with pytest.raises(ValueError, match=rf"Detr has no argument '{next(iter(arguments))}'"):
        detr(3, small_backbone(), **SMALL, **arguments)
