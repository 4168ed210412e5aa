"""Folding batch norms: same outputs, and a report that says what happened."""

import copy
import io

import pytest
import timm
import torch
import torchvision
from tolerances import NETWORK
from torch import nn
from trained_norms import trained

from involution import Involution1d, Involution2d, Involution3d
from involution.models import FuseReport, fuse
from involution.nn import convert_conv_to_involution

SMALL = ["rednet_nano", "rednet_micro", "rednet26", "rednet26_k7_stem"]


def registered(stem):
    return sorted(name for name in timm.list_models() if name.startswith("rednet") and stem in name)


def check(model, size=64, channels=3):
    model = trained(model).double()
    x = torch.randn(2, channels, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        report = fuse(model)
        torch.testing.assert_close(model(x), expected, **NETWORK[torch.float64])
    return report


@pytest.mark.parametrize("name", registered("26") + registered("nano") + registered("micro"))
def test_small_models_compute_the_same(name):
    report = check(timm.create_model(name, num_classes=7, **({"block_args": {}} if "twin" in name else {})))
    assert not report.kept
    assert report.convolutions


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(registered("")) - set(registered("26"))))
def test_every_model_computes_the_same(name):
    assert not check(timm.create_model(name)).kept


def test_report_of_rednet26_names_everything():
    report = timm.create_model("rednet26").eval().fuse()
    assert len(report.involutions) == 9  # eight bottlenecks and the stem
    assert len(report.generators) == 9
    # stem: two; bottlenecks: two each; four projections
    assert "conv1.0" in report.convolutions
    assert "conv1.6" in report.convolutions
    assert "layer1.0.conv2" in report.involutions
    assert "layer1.0.conv2.generator.reduce" in report.generators
    assert "layer1.0.downsample.0" in report.convolutions or "layer1.0.downsample.1" in report.convolutions
    assert len(report.convolutions) == 2 + 2 * 8 + 4


def test_relu_goes_into_the_involution():
    model = timm.create_model("rednet26").eval()
    model.fuse()
    assert isinstance(model.layer1[0].act2, nn.Identity)
    assert model.layer1[0].conv2.relu
    assert isinstance(model.layer1[0].act1, nn.ReLU)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_in_training_mode_it_says_what_to_do():
    model = timm.create_model("rednet26")
    with pytest.raises(ValueError, match=r"call model\.eval"):
        fuse(model)
    assert isinstance(model.bn1, nn.BatchNorm2d)


def test_second_call_finds_nothing():
    model = timm.create_model("rednet26").eval()
    model.fuse()
    assert model.fuse() == FuseReport()


@pytest.mark.parametrize(
    "options",
    [
        {"act_layer": "silu"},
        {"drop_path_rate": 0.2},
        {"avg_down": True},
        {"output_stride": 8},
        {"reduction_ratio": 0},
        {"aa_layer": timm.layers.BlurPool2d},
        {"block_args": {"attn_layer": "se"}},
    ],
    ids=str,
)
def test_variants(options):
    check(timm.create_model("rednet26", **options))


def test_group_norm_stays_and_is_named():
    model = timm.create_model("rednet26", norm_layer=lambda channels, **kw: nn.GroupNorm(2, channels, **kw)).eval()
    report = model.fuse()
    assert not report.convolutions + report.generators + report.involutions
    assert report.kept["bn1"] == "GroupNorm has no fixed statistics"
    assert "kept bn1: GroupNorm" in str(report)


def test_other_resnets():
    assert not check(torchvision.models.resnet18()).kept
    assert not check(timm.create_model("resnet26d")).kept


def test_features_only():
    model = trained(timm.create_model("rednet26", features_only=True)).double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        assert not fuse(model).kept
        for out, truth in zip(model(x), expected, strict=True):
            torch.testing.assert_close(out, truth, **NETWORK[torch.float64])


def test_state_dict_and_copies_carry_it():
    model = trained(timm.create_model("rednet_nano", num_classes=3))
    model.fuse()
    other = trained(timm.create_model("rednet_nano", num_classes=3))
    other.fuse()
    memory = io.BytesIO()
    torch.save(model.state_dict(), memory)
    memory.seek(0)
    other.load_state_dict(torch.load(memory, weights_only=True))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x))
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*")
def test_exported_and_traced():
    model = trained(timm.create_model("rednet_nano", num_classes=3))
    model.fuse()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected, **NETWORK[torch.float32])
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected, **NETWORK[torch.float32])


@pytest.mark.parametrize("kind", [Involution1d, Involution2d, Involution3d])
@pytest.mark.parametrize("relu", [False, True])
def test_involution_takes_over_a_norm(kind, relu):
    norm_of = {Involution1d: nn.BatchNorm1d, Involution2d: nn.BatchNorm2d, Involution3d: nn.BatchNorm3d}
    involution = trained(kind(8, 3, bias=True)).double()
    nn.init.normal_(involution.bias)
    norm = trained(norm_of[kind](8)).double()
    x = torch.randn(2, 8, *[6] * involution.dims, dtype=torch.float64)
    expected = norm(involution(x))
    involution.fuse_norm(norm, relu)
    torch.testing.assert_close(involution(x), expected.relu() if relu else expected)
    assert "followed by norm" in repr(involution)
    with pytest.raises(ValueError, match="already absorbed a norm"):
        involution.fuse_norm(norm)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.BatchNorm2d(4).eval(), nn.GroupNorm(2, 8).eval()], ids=str)
def test_other_norms_are_refused(norm):
    with pytest.raises(ValueError, match="BatchNorm of 8 channels in eval mode"):
        Involution2d(8, 3).fuse_norm(norm)


def test_gradients_flow_through_a_fused_module():
    involution, norm = trained(Involution2d(8, 3)).double(), trained(nn.BatchNorm2d(8)).double()
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(norm(involution(x)).relu().sum(), x)
    involution.fuse_norm(norm, relu=True)
    (grad,) = torch.autograd.grad(involution(x).sum(), x)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet26d"])
def test_involutions_at_the_end_of_a_block_leave_the_relu_after_the_sum(name):
    model = convert_conv_to_involution(timm.create_model(name)).model
    report = check(model)
    assert not report.kept
    assert len(report.involutions) > 1
    # timm's basic block ends in one
    assert isinstance(model.layer1[0].act2, nn.ReLU if name == "resnet18" else nn.Identity)
