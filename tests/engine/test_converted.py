"""Converted files evaluate, predict, explain and are shown on the page, as a training's checkpoint does."""

import json
import math

import pytest
import timm
import torch
from generated import image_folder
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from involution.app.checkpoints import Checkpoint
from involution.cli import main
from involution.engine import load
from involution.engine.checkpoint import read_card, read_checkpoint
from involution.engine.converted import imagenet_classes, in_imagenet
from involution.engine.loading import load_predictor
from involution.models import CheckpointError, convert_checkpoint


def converted(folder, classes=3, content=None, name="rednet_nano", **kwargs):
    torch.manual_seed(1)
    state = timm.create_model(name, num_classes=classes, **kwargs).state_dict()
    torch.save({"state_dict": state, **(content or {})}, folder / "in.pth")
    convert_checkpoint(folder / "in.pth", folder / "out.safetensors", overwrite=True)
    return folder / "out.safetensors"


def test_every_command_takes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": timm.create_model("rednet_nano", num_classes=3).state_dict()}, "in.pth")
    assert main(["convert", "in.pth", "out.safetensors"]) == 0
    assert "use it    involution classify predict --checkpoint out.safetensors IMAGE" in capsys.readouterr().out
    Image.new("RGB", (40, 30), "gray").save("photo.png")
    assert main(["classify", "predict", "photo.png", "--checkpoint", "out.safetensors"]) == 0
    assert "1 classified" in capsys.readouterr().out
    root = image_folder(tmp_path / "pictures")
    assert main(["classify", "eval", "--checkpoint", "out.safetensors", "--data", f"imagefolder:{root}"]) == 0
    assert main(["explain", "photo.png", "--checkpoint", "out.safetensors", "--output", "pictures.png"]) == 0
    shown = Checkpoint.read(tmp_path / "out.safetensors")
    assert (shown.task, shown.network, shown.classes) == ("classify", "rednet_nano", ("0", "1", "2"))
    # there is no data set to measure it on by default, and no training to go on with
    assert main(["classify", "eval", "--checkpoint", "out.safetensors"]) == 2
    assert "needs a path" in capsys.readouterr().err
    assert main(["classify", "train", "--resume", "out.safetensors"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_it_computes_what_timm_does(tmp_path):
    out = converted(tmp_path, 1000)
    network, card = load(out)
    theirs = timm.create_model("rednet_nano", num_classes=1000, checkpoint_path=out).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(x), theirs(x))
    config = theirs.pretrained_cfg
    assert (card.input_size, card.mean, card.std) == (config["input_size"], config["mean"], config["std"])
    assert (card.crop_pct, card.interpolation, card.classes[:2]) == (1.0, "bilinear", ["tench", "goldfish"])
    assert load_predictor(out, "cpu").card == card


def test_class_names_of_the_file(tmp_path):
    out = converted(tmp_path, content={"meta": {"CLASSES": ("ant", "bee", "cat")}})
    assert read_card(read_checkpoint(out), out).classes == ["ant", "bee", "cat"]
    again = tmp_path / "again.safetensors"
    convert_checkpoint(out, again)
    assert read_card(read_checkpoint(again), again).classes == ["ant", "bee", "cat"]
    # of a detector they are not the classifier's
    out = converted(tmp_path, content={"meta": {"CLASSES": ("ant", "bee")}})
    assert read_card(read_checkpoint(out), out).classes == ["0", "1", "2"]


def test_grey_images(tmp_path):
    card = load(converted(tmp_path, in_chans=1))[1]
    assert card.input_size == (1, 32, 32)
    assert card.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])


def test_a_training_keeps_its_card(tmp_path, make_config):
    from involution.engine import train

    changes = {"model__name": "rednet_nano", "data__image_size": 16, "trainer__epochs": 1}
    best = train(make_config(**changes), progress=False).best
    out = tmp_path / "out.safetensors"
    convert_checkpoint(best, out)
    (ours, card), (theirs, original) = load(out), load(best)
    assert json.dumps(card.to_dict()) == json.dumps(original.to_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_imagenet_is_measured_by_the_names_of_its_folders(tmp_path, capsys):
    out = converted(tmp_path, 1000)
    wnids = ("n01440764", "n01443537", "n03126707")
    root = image_folder(tmp_path / "imagenet", ("train", "val"), wnids, per_class=4)
    argv = ["classify", "eval", "--checkpoint", str(out), "--data", f"imagenet:{root}", "--split", "val"]
    assert main([*argv, "--output", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr()
    assert "has 3 of the 1000 classes" in said.err
    assert json.loads((tmp_path / "figures.json").read_text())["num_images"] == 12


def test_imagenet_names_differ():
    names = imagenet_classes()
    assert len(set(names)) == 1000
    assert [names[label] for label in (134, 517)] == ["crane (n02012849)", "crane (n03126707)"]
    # torchvision's list has one name for both; the order tells them apart
    assert in_imagenet([name.partition(" (")[0] for name in names]) == names
    assert in_imagenet(["n01443537", "n03126707"]) == [names[1], names[517]]
    assert in_imagenet(["goldfish", "unicorn"]) == ["goldfish", "unicorn"]
    # ImageNet-V2's folders, sorted as words; a few digits are classes of something else
    by_number = in_imagenet(sorted(map(str, range(1000))))
    assert (by_number[:3], sorted(by_number)) == ([names[0], names[1], names[10]], sorted(names))
    assert in_imagenet(["0", "1"]) == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "rednet5"}, "weights of 'rednet5', which is not in timm's registry"),
        ({"model": "rednet26"}, "describes a far larger network than its weights"),
        ({"classes": "["}, r"what it says of itself is not JSON: '\['"),
        ({"classes": '["a"]'}, r"its class names are \['a'\], wanted 3 words"),
        ({"card": "[]"}, r"its card is \[\], wanted fields by name"),
        ({"card": '{"task": NaN}'}, "its card is nan, wanted a finite number"),
        ({"card": '{"task": "classify"}'}, "its card is incomplete"),
        ({"card": json.dumps({"format": 9})}, "written by a newer involution"),
    ],
)
def test_refuses(changes, message, tmp_path):
    out = converted(tmp_path)
    with safe_open(out, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    # of what the file was
    metadata.pop("sha256")
    save_file(tensors, out, metadata={**metadata, **changes})
    with pytest.raises(CheckpointError, match=message):
        load(out)


def test_weights_that_are_no_numbers_and_a_backbone_alone(tmp_path, capsys):
    out = converted(tmp_path, 0)
    with pytest.raises(CheckpointError, match="a rednet_nano without a classifier, to start a training from"):
        load(out)
    state = timm.create_model("rednet_nano", num_classes=3).state_dict()
    state["fc.bias"][1] = math.nan
    save_file(state, tmp_path / "nan.safetensors", metadata={"model": "rednet_nano"})
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    for command in (["classify", "predict"], ["explain"]):
        argv = [*command, str(tmp_path / "photo.png"), "--checkpoint", str(tmp_path / "nan.safetensors")]
        assert main(argv) == 2
        assert "'fc.bias' has values that are infinite or NaN" in capsys.readouterr().err
