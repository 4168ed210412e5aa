"""The first minute: published weights by name on the command line."""

import json

import numpy as np
import pytest
from generated import image_folder
from PIL import Image

from involution.cli import main
from involution.data.formats.imagenet import _recognises
from involution.models.weights import card


@pytest.fixture
def here(published26, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    Image.fromarray(pixels).save("another.jpg")
    return tmp_path


def test_a_photograph(here, capsys, monkeypatch):
    assert main(["classify", "predict", "--checkpoint", "rednet26", "photo.jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # five classes, one below the other
    assert sum(line.startswith("│") for line in lines) == 5
    assert lines[3].split()[1] == "photo.jpg"
    assert "1 classified" in lines[-1]
    # of several images a row each, which fits a terminal
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["classify", "predict", "--checkpoint", "rednet26", "."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[1].split("┃")[1:-1]] == ["file", "class", "%", "then"]
    assert [line.split()[1] for line in lines if ".jpg" in line] == ["another.jpg", "photo.jpg"]


def test_the_heat_maps_of_every_stage(here, capsys):
    assert main(["explain", "photo.jpg", "--checkpoint", "rednet26", "--what", "stages"]) == 0
    (file,) = capsys.readouterr().out.split()
    assert file == "runs/explain/photo-stages.png"
    with Image.open(file) as image:
        assert image.width > 1000


def test_evaluation_has_the_published_figures_beside(here, capsys):
    wnids = ("n01440764", "n01443537", "n03126707")
    root = image_folder(here / "imagenet", ("train", "val"), wnids, per_class=2)
    assert _recognises(root)
    argv = ["classify", "eval", "--checkpoint", "rednet26", "--data", f"imagenet:{root}"]
    assert main([*argv, "--output", "figures.json"]) == 0
    said = capsys.readouterr()
    out = " ".join(said.out.split())
    # ImageNet's labelled images are those of val
    assert "rednet26, val split" in out
    assert "measured here │ 6 │" in out
    # nor is top-5 of three classes a figure
    assert "published by authors │ 50,000 │ 75.96% │ │" in out
    assert "published by PaddleClas │ 50,000 │ 75.95% │ │" in out
    assert "shorter side 256 pixels, 224² centre crop, bilinear: the published measurements resized by OpenCV" in out
    assert "not to be compared: 6 images of 3 classes were measured" in out
    assert "has 3 of the 1000 classes of rednet26: measured among" in said.err
    assert json.loads((here / "figures.json").read_text())["checkpoint"] == "rednet26"


def test_list_get_where_card(here, published26, capsys):
    for argv in (["weights"], ["weights", "list", "rednet26"]):
        assert main(argv) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if "rednet26" in line)
        assert [cell.strip() for cell in row.split("│")[1:-1]] == [
            *("rednet26", "rednet26.paddle_in1k", "9.2", "75.96", "93.19", "apache-2.0", "yes"),
        ]
    assert main(["weights", "get", "rednet26"]) == 0
    assert capsys.readouterr().out.endswith("/hub/checkpoints/rednet26.paddle_in1k.safetensors\n")
    assert main(["weights", "where", "rednet26", "rednet50"]) == 0
    said = capsys.readouterr().out
    assert f"source      {published26} (INVOLUTION_WEIGHTS" in said
    assert f"here      {published26}/RedNet26_pretrained.pdparams" in said
    assert "rednet50.paddle_in1k\n  here      no\n  address   https://" in said
    assert main(["weights", "card", "rednet26"]) == 0
    assert capsys.readouterr().out == card("rednet26") + "\n"


def test_save(here, capsys):
    assert main(["weights", "save", "rednet26", "--output", "hub"]) == 0
    assert "written   hub: model.safetensors, config.json, README.md" in capsys.readouterr().out
    assert main(["weights", "save", "rednet26", "--output", "hub"]) == 2
    assert capsys.readouterr().err == "involution: hub: wanted a new or empty folder\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["get"], "which weights? involution weights get rednet26"),
        (["card", "rednet26", "rednet50"], "which weights? involution weights card rednet26"),
        (["get", "rednet5"], "no weights are published as 'rednet5'; did you mean rednet50?"),
        (["where", "--again"], "--again is for get, not for where"),
        (["save", "rednet26"], "where to? involution weights save rednet26 --output FOLDER"),
        (["card", "rednet26", "--output", "x"], "--output is for save, not for card"),
        (["get", "rednet50"], "RedNet50_pretrained.pdparams is not in "),
        (["gte"], "gte"),
    ],
)
def test_mistakes(words, message, here, capsys):
    assert main(["weights", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_offline(here, capsys, monkeypatch):
    monkeypatch.setenv("INVOLUTION_WEIGHTS", "http://127.0.0.1:9")
    assert main(["classify", "predict", "--checkpoint", "rednet152", "photo.jpg"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("involution: rednet152.paddle_in1k can't be downloaded: no connection to 127.0.0.1:9 (")
    assert "on a machine with internet and copy RedNet152_pretrained.pdparams to" in said
    assert len(said.splitlines()) == 1
