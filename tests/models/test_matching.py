"""One loader for every network of timm, whole or cut to its features, and for the files of other trainings."""

import argparse
import sys
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from involution.models import CheckpointError, load_checkpoint
from involution.models.pyramid import Backbone
from involution.segmentation import semantic_fpn

# flat stages, blocks that are cut off, features of their own class, stages joined by underscores
NETWORKS = [
    "test_resnet",
    "test_convnext",
    "test_vit",
    "test_efficientnet",
    "test_byobnet",
    "densenet121",
    "rednet_nano",
]


def filled(name, seed=1, **kwargs):
    torch.manual_seed(seed)
    model = timm.create_model(name, **kwargs)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return model.eval()


def training(model):
    """As `involution classify train` keeps it."""
    return {"involution": {}, "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_and_their_features(name, tmp_path):
    source = filled(name, num_classes=10)
    torch.save(training(source), tmp_path / "best.ckpt")
    model = filled(name, seed=2, num_classes=10)
    report = load_checkpoint(model, tmp_path / "best.ckpt")
    assert report.left_out == report.untouched == report.notes == []
    assert (report.model, report.num_classes) == (name, 10)
    wanted = source.state_dict()
    assert all(torch.equal(value, wanted[entry]) for entry, value in model.state_dict().items())

    features = filled(name, seed=2, features_only=True, out_indices=(0, 1))
    report = load_checkpoint(features, tmp_path / "best.ckpt")
    assert report.left_out
    x = torch.rand(1, 3, *source.pretrained_cfg["input_size"][1:])
    theirs = source.forward_intermediates(x, indices=(0, 1), intermediates_only=True)
    for ours, other in zip(features(x), theirs, strict=True):
        # some give channels last
        torch.testing.assert_close(ours if ours.shape == other.shape else ours.permute(0, 3, 1, 2), other)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_heads(name, tmp_path):
    source = filled(name, num_classes=10)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = filled(name, seed=2, num_classes=3)
    before = {entry: value.clone() for entry, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=rf"does not fit the model {name}: 2 of another shape or type \(\S+weight"
    ):
        load_checkpoint(model, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, before[entry]) for entry, value in model.state_dict().items())
    head = source.pretrained_cfg["classifier"]
    for ignore in (True, None):
        report = load_checkpoint(model, tmp_path / "weights.safetensors", ignore_head=ignore)
        assert sorted(report.left_out) == sorted(report.untouched) == [f"{head}.bias", f"{head}.weight"]
        ours = model.state_dict()
        assert torch.equal(ours[f"{head}.weight"], before[f"{head}.weight"])
        assert all(torch.equal(ours[k], v) for k, v in source.state_dict().items() if not k.startswith(f"{head}."))
    without = timm.create_model(name, num_classes=0)
    left_out = load_checkpoint(without, tmp_path / "weights.safetensors").left_out
    assert sorted(left_out) == [f"{head}.bias", f"{head}.weight"]
    # a head of the same size is taken where it may be
    assert load_checkpoint(filled(name, 2, num_classes=10), tmp_path / "weights.safetensors", ignore_head=None) == (
        load_checkpoint(filled(name, 2, num_classes=10), tmp_path / "weights.safetensors")
    )


def test_backbones_take_a_training_of_any_network(tmp_path):
    source = filled("resnet18", num_classes=4)
    torch.save(training(source), tmp_path / "best.ckpt")
    body = Backbone("resnet18", weights=tmp_path / "best.ckpt")
    assert body.loaded.left_out == ["model.fc.weight", "model.fc.bias"]
    state = source.state_dict()
    assert all(torch.equal(value, state[entry]) for entry, value in body.body.state_dict().items())
    frozen = {entry.split(".")[0] for entry, p in body.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_only_a_resnet_is_frozen(tmp_path):
    torch.save(training(filled("test_convnext")), tmp_path / "best.ckpt")
    parts = "stem_0, stem_1, stages_0, stages_1"
    with pytest.raises(ValueError, match=rf"test_convnext has no conv1, bn1, layer1 to freeze: its parts are {parts}"):
        Backbone("test_convnext", (0, 1), weights=tmp_path / "best.ckpt")
    body = Backbone("test_convnext", (0, 1), weights=tmp_path / "best.ckpt", freeze=False)
    assert all(parameter.requires_grad for parameter in body.parameters())


def test_more_blocks_than_the_network_has_are_refused(tmp_path):
    torch.save(training(filled("resnet34")), tmp_path / "best.ckpt")
    for model in (timm.create_model("resnet18"), timm.create_model("resnet18", features_only=True)):
        with pytest.raises(CheckpointError, match=r"does not fit the model resnet18: .* unexpected \(layer1\.2\."):
            load_checkpoint(model, tmp_path / "best.ckpt")


def test_the_network_that_fits_is_named(tmp_path):
    torch.save({"arch": "resnet34", "state_dict": filled("resnet34").state_dict()}, tmp_path / "timm.pth.tar")
    with pytest.raises(
        CheckpointError, match=r"holds resnet34, which does not fit resnet18 \(choose the model resnet34"
    ):
        load_checkpoint(timm.create_model("resnet18"), tmp_path / "timm.pth.tar")
    torch.save(filled("rednet26").state_dict(), tmp_path / "deep.pth")
    for model in (timm.create_model("rednet50"), timm.create_model("rednet50", features_only=True)):
        with pytest.raises(CheckpointError, match=r"holds rednet26, which does not fit rednet50 \(choose the model"):
            load_checkpoint(model, tmp_path / "deep.pth")


def test_a_file_of_something_else(tmp_path):
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"no part of this network in the file: wanted entries like \S+, got a\.w"
    ):
        load_checkpoint(timm.create_model("test_vit"), tmp_path / "other.pth")
    state = filled("test_vit").state_dict()
    both = {f"{who}.{entry}": value for who in ("student", "teacher") for entry, value in state.items()}
    torch.save(both, tmp_path / "two.pth")
    with pytest.raises(
        CheckpointError, match=r"several networks in this file, under 'student\.', 'teacher\.': save only one"
    ):
        load_checkpoint(timm.create_model("test_vit"), tmp_path / "two.pth")


OPTIONS = argparse.Namespace(model="test_resnet", lr=0.1, mean=None, amp=True, crop=(0.5, 1.0))


def averaged(model):
    return {name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["timm", "timm-average", "average-alone", "torchvision", "torchvision-average"])
def test_other_trainings(kind, tmp_path):
    source = filled("test_resnet", num_classes=10)
    plain, average = source.state_dict(), averaged(source)
    if kind.startswith("torchvision"):
        content = {"model": plain, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": OPTIONS}
        if kind == "torchvision-average":
            # as torch.optim.swa_utils.AveragedModel names them
            content["model_ema"] = {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in average.items()}}
    else:
        content = {"epoch": 3, "arch": "test_resnet", "state_dict": plain, "args": OPTIONS, "version": 2, "metric": 0.5}
        if kind != "timm":
            content["state_dict_ema"] = average
        if kind == "average-alone":
            del content["state_dict"]
    torch.save(content, tmp_path / "checkpoint.pth")
    model = filled("test_resnet", 2, num_classes=10)
    report = load_checkpoint(model, tmp_path / "checkpoint.pth")
    wanted = average if "average" in kind else plain
    assert all(torch.equal(value, wanted[entry]) for entry, value in model.state_dict().items())
    said = "used the moving average of the weights" in " ".join(report.notes)
    assert said == kind.endswith("-average")


@pytest.mark.parametrize("name", ["ema", "ema_model", "ema_state_dict", "model"])
def test_other_weights_in_the_file_are_told(name, tmp_path):
    source = filled("test_resnet", num_classes=10)
    # as some trainings nest them, and MMEngine keeps the plain weights where it has put the average in their place
    part = {"module": averaged(source), "updates": 3} if name == "ema" else averaged(source)
    content = {"state_dict": source.state_dict(), name: part, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "checkpoint.pth")
    model = filled("test_resnet", 2, num_classes=10)
    report = load_checkpoint(model, tmp_path / "checkpoint.pth")
    assert all(torch.equal(value, source.state_dict()[entry]) for entry, value in model.state_dict().items())
    assert report.notes == [f"used the weights under state_dict, not those under '{name}'"]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def test_options_stay_a_record(tmp_path):
    model = filled("test_resnet")
    torch.save(
        {"state_dict": model.state_dict(), "args": argparse.Namespace(a=Command(tmp_path / "ran"))}, tmp_path / "x"
    )
    with pytest.raises(CheckpointError, match=r"is refused, nothing of it was run: its pickle asks for .*system"):
        load_checkpoint(model, tmp_path / "x")
    assert not (tmp_path / "ran").exists()


def test_the_log_of_mmengine_stays_a_record(tmp_path, monkeypatch):
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    buffer = type("HistoryBuffer", (), {"__module__": names[-1]})
    sys.modules[names[-1]].HistoryBuffer = buffer
    log = buffer()
    log._log_history = np.array([1.0, 2.0])
    source = filled("test_resnet")
    parts = {f"backbone.{name}": value for name, value in source.state_dict().items() if not name.startswith("fc.")}
    hub = {"log_scalars": {"train/loss": log}}
    torch.save({"meta": {"iter": 10}, "state_dict": parts, "message_hub": hub}, tmp_path / "mm.pth")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    model = timm.create_model("test_resnet", num_classes=0)
    load_checkpoint(model, tmp_path / "mm.pth")
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["test_resnet", "rednet_nano", "test_vit", "test_convnext"])
def test_weights_for_colours_are_adapted_as_timm_does(name, channels, tmp_path):
    source = filled(name, num_classes=10)
    torch.save(source.state_dict(), tmp_path / "rgb.pth")
    model = filled(name, 2, num_classes=10, in_chans=channels)
    report = load_checkpoint(model, tmp_path / "rgb.pth")
    overlay = {"file": str(tmp_path / "rgb.pth"), "num_classes": 10}
    theirs = timm.create_model(
        name, pretrained=True, num_classes=10, in_chans=channels, pretrained_cfg_overlay=overlay
    ).state_dict()
    assert all(torch.equal(value, theirs[entry]) for entry, value in model.state_dict().items())
    first = source.pretrained_cfg["first_conv"]
    assert report.notes == [f"the first convolution ({first}.weight) was adapted from 3 channels to {channels}"]
    assert report.in_chans == 3
    features = timm.create_model(name, features_only=True, out_indices=(0, 1), in_chans=channels)
    assert load_checkpoint(features, tmp_path / "rgb.pth").notes[0].endswith(f"from 3 channels to {channels}")


@pytest.mark.parametrize("name", ["test_resnet", "rednet_nano", "test_vit"])
def test_weights_for_grey_see_grey_in_colours_as_before(name, tmp_path):
    source = filled(name, num_classes=10, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "grey.pth")
    model = filled(name, 2, num_classes=10)
    report = load_checkpoint(model, tmp_path / "grey.pth")
    first = source.pretrained_cfg["first_conv"]
    assert report.notes == [f"the first convolution ({first}.weight) was adapted from 1 channel to 3"]
    assert report.in_chans == 1
    image = torch.rand(2, 1, *model.pretrained_cfg["input_size"][1:])
    torch.testing.assert_close(model(image.expand(-1, 3, -1, -1)), source(image), rtol=1e-4, atol=1e-4)


def test_weights_for_other_channels_are_refused(tmp_path):
    torch.save(filled("test_resnet", in_chans=4).state_dict(), tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"1 of another shape or type \(conv1\.0\.weight .* got \(\d+, 4, 3, 3\)"):
        load_checkpoint(timm.create_model("test_resnet"), tmp_path / "four.pth")


def test_networks_without_a_config(tmp_path):
    source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    torch.save({"state_dict": {f"encoder.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "x.pth")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    load_checkpoint(model, tmp_path / "x.pth")
    assert torch.equal(model[0].weight, source[0].weight)


def test_whole_detectors_and_segmenters(tmp_path):
    source, model = (semantic_fpn(4, Backbone("rednet26"), out_channels=32, head_channels=16) for _ in range(2))
    torch.save(training(source), tmp_path / "best.ckpt")
    assert load_checkpoint(model, tmp_path / "best.ckpt").left_out == []
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    # and the backbone alone of it
    body = Backbone("rednet26", weights=tmp_path / "best.ckpt")
    assert torch.equal(body.body.state_dict()["bn1.weight"], source.backbone.backbone.body.bn1.weight)
    assert {name.split(".")[1] for name in body.loaded.left_out} == {"backbone", "head"}
    (note,) = body.loaded.notes
    assert note.startswith("the rednet26 in it is read alone, without what is beside it, such as a detector's pyramid")
