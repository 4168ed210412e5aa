"""The published segmenters: parameters, shapes, a step."""

import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.segmentation import Backbone, semantic_fpn, smp, upernet


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (lambda: semantic_fpn(19), 18_463_169),
        (lambda: semantic_fpn(19, neck="involution"), 16_372_737),
        (lambda: upernet(19), 56_380_500),
        (lambda: upernet(19, auxiliary_channels=0), 56_380_500 - 2_364_691),
    ],
    ids=["semantic_fpn", "semantic_fpn-involution", "upernet", "upernet-no-auxiliary"],
)
def test_parameters_are_the_published_ones(model, published):
    with torch.device("meta"):
        assert sum(p.numel() for p in model().parameters()) == published


MODELS = {
    "semantic_fpn": lambda body: semantic_fpn(4, body, out_channels=32, head_channels=16),
    "semantic_fpn-involution": lambda body: semantic_fpn(4, body, neck="involution", out_channels=32, head_channels=16),
    "upernet": lambda body: upernet(4, body, head_channels=16, auxiliary_channels=8),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_logits_have_the_size_of_the_image_and_every_parameter_learns(name, size):
    model = MODELS[name](Backbone("rednet26_stem7"))
    x = torch.rand(2, 3, *size)
    outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == (2 if name == "upernet" else 1)
    assert all(out.shape == (2, 4, *size) for out in outputs)
    sum((out**2).mean() for out in outputs).backward()
    assert not [entry for entry, p in model.named_parameters() if p.grad is None]
    model.eval()
    with torch.no_grad():
        assert model(x).shape == (2, 4, *size)


def test_scales_of_the_semantic_head_double_up_to_the_finest_level():
    model = MODELS["semantic_fpn"](Backbone("rednet26"))
    ups = [sum(isinstance(layer, nn.Upsample) for layer in scale) for scale in model.head.scales]
    assert ups == [0, 1, 2, 3]


@pytest.mark.parametrize("name", MODELS)
def test_sync_batch_norm_covers_the_generators(name):
    model = MODELS[name](Backbone("rednet26_stem7"))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    generators = sum(isinstance(module, Involution2d) for module in model.modules())
    assert generators == (13 if name == "semantic_fpn-involution" else 9)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    kinds = [type(module) for module in synced.modules()]
    assert kinds.count(nn.SyncBatchNorm) == norms
    assert nn.BatchNorm2d not in kinds
    involutions = [module for module in synced.modules() if isinstance(module, Involution2d)]
    assert all(isinstance(module.generator.norm, nn.SyncBatchNorm) for module in involutions)


def test_group_norm_everywhere():
    for model in (semantic_fpn(3, "rednet26", norm="group"), upernet(3, "rednet26", norm="group", head_channels=16)):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_refuses_one_class():
    with pytest.raises(ValueError, match="2 or more, got 1"):
        semantic_fpn(1, "rednet26")


@pytest.mark.parametrize(
    ("name", "body"),
    [("semantic_fpn", "backbone.backbone."), ("upernet", "backbone."), ("smp_fpn", "network.encoder.")],
)
def test_the_head_is_all_but_the_backbone(name, body):
    model = smp(name, 4, "rednet26_stem7") if name == "smp_fpn" else MODELS[name](Backbone("rednet26_stem7"))
    head = {id(parameter) for parameter in model.head_parameters()}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    assert found == {name for name, _ in model.named_parameters() if not name.startswith(body)}
    assert len(found) > 8
