"""Published weights by name, where a training starts and where a checkpoint is wanted."""

import re
from dataclasses import replace

import pytest
import torch
from generated import image_folder
from published_files import network

from involution.app.checkpoints import find_checkpoints
from involution.engine import load, run, train
from involution.engine.settings import ConfigError
from involution.engine.task import get_task
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.weights import fit_backbone
from involution.models import CheckpointError


@pytest.fixture(scope="module")
def theirs():
    return network("rednet26")


def test_a_checkpoint_by_name(published26, theirs):
    network, card = load("rednet26")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(x), theirs(x))
    assert (card.task, card.model, card.input_size, card.crop_pct) == ("classify", "rednet26", (3, 224, 224), 0.875)
    assert (len(card.classes), card.classes[1]) == (1000, "goldfish")
    (shown,) = find_checkpoints(["rednet26"])
    assert (shown.label, shown.task) == ("rednet26 · rednet26.paddle_in1k", "classify")
    with pytest.raises(CheckpointError, match="made for the task 'classify', wanted detect"):
        load("rednet26", task="detect")


def test_classification_starts_from_them(published26, theirs, tmp_path, capsys):
    root = image_folder(tmp_path / "pictures", per_class=2)
    changes = {
        "model.name": "rednet26",
        "model.weights": "rednet26",
        "data.spec": f"imagefolder:{root}",
        "data.image_size": 32,
        "data.batch_size": 6,
        "trainer.epochs": 1,
        "optimizer.lr": 1e-12,
        "schedule.warmup_epochs": 0,
        "output": str(tmp_path),
    }
    best = train(ClassifyConfig.load("finetune", changes), progress=False).best
    assert "rednet26: the head starts from scratch (fc.weight, fc.bias)" in capsys.readouterr().err
    trained, card = load(best)
    assert card.recipe["model"]["weights"] == "rednet26"
    # a learning rate of next to nothing leaves all as it was
    assert torch.allclose(trained.layer4[0].conv3.weight, theirs.layer4[0].conv3.weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_backbones_start_from_them(task, published26, theirs, capsys):
    spec = get_task(task)
    config = spec.config.load(None, {"model.backbone": "rednet26_stem7", "model.weights": "rednet26"})
    with pytest.raises(CheckpointError, match=r"choose the model rednet26, or other weights"):
        spec.build(config, 3, True)
    fitted = fit_backbone(config)
    assert fitted == replace(config, model=replace(config.model, backbone="rednet26"))
    assert (
        "rednet26 is published with a 3×3 involution in the stem: the backbone is rednet26, not rednet26_stem7"
        in capsys.readouterr().err
    )
    assert fit_backbone(fitted) == fitted
    made = spec.build(fitted, 3, True).state_dict()
    name = next(name for name in made if name.endswith("layer4.0.conv3.weight"))
    assert torch.equal(made[name], theirs.state_dict()["layer4.0.conv3.weight"])


def test_a_run_has_the_backbone_that_fits(monkeypatch, published26):
    def stop(spec, config, *args):
        raise InterruptedError(config.model.backbone)

    monkeypatch.setattr(run, "open_data", stop)
    config = get_task("segment").config.load(None, {"model.backbone": "rednet26_stem7", "model.weights": "rednet26"})
    with pytest.raises(InterruptedError, match=r"^rednet26$"):
        train(config)


@pytest.mark.parametrize(
    ("task", "setting", "chosen"), [("classify", "name", "rednet26"), ("detect", "backbone", "rednet26_stem7")]
)
def test_weights_of_another_network_are_refused_before_they_are_downloaded(task, setting, chosen, published26):
    config = get_task(task).config.load("finetune", {f"model.{setting}": chosen})
    wanted = (
        f"model.weights rednet50 are of rednet50, and model.{setting} is {chosen}: choose model.{setting} rednet50 "
        "or model.weights rednet26"
    )
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        train(config)


def test_settings_without_a_backbone_stay(published26):
    config = ClassifyConfig.load(None, {"model.name": "rednet26", "model.weights": "rednet26"})
    assert fit_backbone(config) is config
    with pytest.raises(CheckpointError, match=r"no such checkpoint: rednet5; did you mean"):
        get_task("classify").build(replace(config, model=replace(config.model, weights="rednet5")), 3, True)
