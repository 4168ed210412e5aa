"""The published detectors: parameters, what is frozen, a step and a prediction."""

import copy

import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import Involution2d
from involution.detection import Backbone, FeaturePyramid, faster_rcnn, first_label, mask_rcnn, retinanet
from involution.models import CheckpointError

CONV, INV = "convolution", "involution"
SMALL = {"out_channels": 32, "min_size": 64, "max_size": 96}
# RedNet-50, 80 categories, stem and first stage frozen: the authors' counts, and for the R-CNNs torchvision's rows
# of the background on top
PUBLISHED = {
    (retinanet, CONV, None): 27_814_100,
    (retinanet, INV, None): 26_246_276,
    (faster_rcnn, CONV, CONV): 31_602_564,
    (faster_rcnn, INV, CONV): 29_512_132,
    (faster_rcnn, INV, INV): 28_989_524,
    (mask_rcnn, CONV, CONV): 34_246_101,
    (mask_rcnn, INV, CONV): 32_155_669,
    (mask_rcnn, INV, INV): 29_542_629,
}
combinations = pytest.mark.parametrize(
    ("build", "neck", "head"), PUBLISHED, ids=[f"{b.__name__}-{n[:3]}-{(h or 'none')[:3]}" for b, n, h in PUBLISHED]
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights of two backbones in files, as a training leaves them."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("rednet26_stem7", "rednet50_stem7"):
        torch.save(timm.create_model(name).state_dict(), folder / f"{name}.pth")
    return folder


def kinds(neck, head):
    return {"neck": neck, **({"head": head} if head else {})}


def levels_of(build):
    return (2, 3, 4) if build is retinanet else (1, 2, 3, 4)


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@combinations
def test_trainable_parameters_are_the_published_ones(build, neck, head, weights):
    body = Backbone("rednet50_stem7", levels_of(build), weights=weights / "rednet50_stem7.pth")
    model = build(80, body, **kinds(neck, head))
    assert trainable(model) == PUBLISHED[build, neck, head]
    # torchvision's ResNet freezes as much: the stem and the first stage
    assert sum(p.numel() for p in model.parameters()) - trainable(model) == 139_086


def scene(labels):
    """Two images of different sizes with a square each."""
    images = [torch.rand(3, 64, 80), torch.rand(3, 72, 64)]
    targets = []
    for image, label in zip(images, labels, strict=True):
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        mask[:, 10:40, 12:44] = 1
        boxes = torch.tensor([[12.0, 10.0, 44.0, 40.0]])
        targets.append({"boxes": boxes, "labels": torch.tensor([label]), "masks": mask})
    return images, targets


@combinations
def test_trains_and_predicts(build, neck, head):
    body = Backbone("rednet26_stem7", levels_of(build), norm="group")
    model = build(5, body, **kinds(neck, head), **SMALL)
    first = first_label(model)
    losses = model(*scene([first, first + 4]))
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    # the finest involution of the pyramid serves small boxes alone, the mask head positive ones
    assert not [name for name in without if "fpn.layer_blocks" not in name]
    model.eval()
    with torch.no_grad():
        found = model([torch.rand(3, 64, 80)])[0]
    assert set(found) == {"boxes", "labels", "scores"} | ({"masks"} if build is mask_rcnn else set())
    assert len(found["labels"]) == 0 or (first <= found["labels"].min() and found["labels"].max() < first + 5)


@combinations
def test_involutions_are_where_they_were_asked_for(build, neck, head):
    model = build(3, Backbone("rednet26_conv", levels_of(build)), **kinds(neck, head), out_channels=32)
    places = [name for name, module in model.named_modules() if isinstance(module, Involution2d)]
    wanted = [f"backbone.fpn.layer_blocks.{i}" for i in range(len(levels_of(build)))] if neck == INV else []
    if head == INV:
        wanted += ["rpn.head.conv.0"]
        wanted += [f"roi_heads.mask_head.{i}.0" for i in range(4)] if build is mask_rcnn else []
    assert places == wanted


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_weights_freeze_stem_first_stage_and_statistics(weights):
    body = Backbone("rednet26_stem7", weights=weights / "rednet26_stem7.pth")
    assert body.frozen
    assert not any(module.training for module in norms(body))
    assert not any(module.training for module in norms(body.eval().train()))
    frozen = {name.split(".")[1] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert {name.split(".")[1] for name, p in body.named_parameters() if p.requires_grad} == {
        "layer2",
        "layer3",
        "layer4",
    }
    trained = torch.load(weights / "rednet26_stem7.pth", weights_only=True)
    state = body.body.state_dict()
    assert all(torch.equal(state[name], trained[name]) for name in state)
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    body(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in body.named_buffers())


def test_nothing_is_frozen_from_scratch_nor_when_told_so(weights):
    for body in (
        Backbone("rednet26"),
        Backbone("rednet26_stem7", weights=weights / "rednet26_stem7.pth", freeze=False),
    ):
        assert not body.frozen
        assert all(module.training for module in norms(body.train()))
        assert all(p.requires_grad for p in body.parameters())


def test_group_norm_reaches_the_generators():
    body = Backbone("rednet26", norm="group")
    assert not norms(body)
    generators = [m.generator for m in body.modules() if isinstance(m, Involution2d)]
    assert len(generators) == 9
    assert all(isinstance(generator.norm, nn.GroupNorm) for generator in generators)
    body(torch.rand(1, 3, 32, 32))[-1].sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rednet26", "norm": "group", "weights": "x.pth"}, "for training from scratch"),
        ({"name": "rednet26", "norm": "group", "freeze": True}, "for training from scratch"),
        ({"name": "rednet26", "freeze": True}, "needs weights"),
        ({"name": "rednet26", "norm": "layer"}, "must be one of batch, group, got 'layer'"),
        ({"name": "rednet27"}, "no network 'rednet27'"),
    ],
)
def test_backbone_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Backbone(**arguments)


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(CheckpointError, match="does not fit"):
        Backbone("rednet50_stem7", weights=weights / "rednet26_stem7.pth")


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (retinanet, {"neck": "transformer"}, "neck must be convolution or involution"),
        (faster_rcnn, {"head": "box"}, "head must be convolution or involution"),
        (retinanet, {"num_classes": 0}, "num_classes must be 1 or more"),
        (mask_rcnn, {"anchor_sizes": (32, 64)}, "one size for each of the 5 levels, got 2"),
    ],
)
def test_detectors_refuse(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"num_classes": 3, "backbone": "rednet26", **arguments})


def test_any_network_of_timm_serves_as_backbone():
    model = retinanet(3, Backbone("resnet18", (2, 3, 4)), neck=INV, **SMALL).eval()
    assert model.backbone.backbone.strides == [8, 16, 32]
    with torch.no_grad():
        model([torch.rand(3, 64, 64)])


def test_pyramid_is_linear_in_the_size_of_its_output():
    """Forward and backward of the neck's involution keep a few times its output, never K² times it."""
    layer = FeaturePyramid(Backbone("rednet26", (1,)), 64, neck=INV).fpn.layer_blocks[0]
    saved = []
    x = torch.rand(1, 64, 40, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert sum(saved) < 4 * x.numel()


@pytest.mark.parametrize("build", [retinanet, faster_rcnn, mask_rcnn])
def test_the_head_is_all_but_the_backbone(build):
    model = build(3, Backbone("rednet26_stem7", levels_of(build)), **SMALL)
    head = {id(parameter) for parameter in model.head_parameters()}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    assert found == {name for name, _ in model.named_parameters() if not name.startswith("backbone.backbone.")}
    assert "backbone.fpn.inner_blocks.0.0.weight" in found


def test_levels_that_a_backbone_lacks_are_refused():
    said = (
        r"levels of rednet_nano go from 0 to 3 \(4 features\), got \[1, 2, 3, 4\]; .*--model\.levels '\[0, 1, 2, 3\]'"
    )
    with pytest.raises(ValueError, match=said):
        Backbone("rednet_nano")


@pytest.mark.parametrize("make", [faster_rcnn, mask_rcnn])
def test_an_image_does_not_change_what_is_found_in_the_next(make):
    body = Backbone("rednet_nano", (1, 2, 3))
    model = make(2, body, out_channels=16, box_channels=16, anchor_sizes=(4, 8, 16, 32), min_size=32).eval()
    small, wide = torch.rand(3, 16, 16), torch.rand(3, 20, 24)
    other = copy.deepcopy(model)
    other([wide])
    torch.testing.assert_close(model([small]), other([small]), rtol=0, atol=0)
