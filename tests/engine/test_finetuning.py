"""What fine-tuning needs: frozen parts, rates by layer, early stopping, rare classes."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import precision_recall_fscore_support
from timm.optim import param_groups_layer_decay

from involution import detection, segmentation
from involution.data.labelled import balanced_weights
from involution.engine import ClassifyConfig, DetectConfig, evaluate, run, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.checks import check_config
from involution.engine.config import ConfigError, OptimizerConfig
from involution.engine.freezing import freeze
from involution.engine.loader import TrainBatches
from involution.engine.optimizer import param_groups
from involution.engine.tasks.classify.figures import ClassificationFigures
from involution.engine.tasks.classify.module import ClassificationTask
from involution.engine.trunk import chosen_parts, layer_depths
from involution.models.pyramid import Backbone


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("start") / "start.pth"
    torch.save(timm.create_model("test_resnet", in_chans=1).state_dict(), file)
    return file


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def changed(path, start):
    """Names of the entries that differ from the weights that a training started from; those of the head left out."""
    before, after = torch.load(start, weights_only=True), state(path)
    return {
        name for name, value in before.items() if name[:2] != "fc" and not torch.equal(value, after[f"model.{name}"])
    }


def early(name):
    """Whether an entry of the ResNet belongs to its stem or first stage."""
    return name.startswith(("conv1.", "bn1.", "layer1."))


def test_frozen_parts_stay_with_their_norms(make_config, start, capsys):
    config = make_config(model__weights=str(start), model__freeze="stem, layer1", trainer__epochs=1)
    result = train(config, progress=False)
    assert "frozen: stem, layer1, " in capsys.readouterr().err
    moved = changed(result.last, start)
    assert not any(map(early, moved))
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "layer4.0.bn2.weight"} <= moved


def test_norms_alone_keep_their_statistics(make_config, start):
    config = make_config(model__weights=str(start), model__freeze="norms", trainer__epochs=1)
    moved = changed(train(config, progress=False).last, start)
    assert not [name for name in moved if "running" in name]
    assert {"bn1.weight", "conv1.weight"} & moved


def test_parts_thaw_after_some_epochs_also_where_the_run_is_resumed(make_config, start, press_ctrl_c, capsys):
    changes = {"model__weights": str(start), "model__freeze": "backbone", "model__freeze_epochs": 2}
    whole = train(make_config("whole", trainer__epochs=3, **changes), progress=False)
    assert "parameters and the statistics of 15 batch norms, for 2 epochs" in capsys.readouterr().err
    assert any(map(early, changed(whole.last, start)))
    # within the second epoch, of 4 steps each
    press_ctrl_c("training_step", 6)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(make_config("parts", trainer__epochs=3, **changes), progress=False)
    assert changed(stop.value.checkpoint, start) == set()
    resumed = train(make_config("parts", trainer__epochs=3, **changes), progress=False, resume=stop.value.checkpoint)
    one, other = state(whole.last), state(resumed.last)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_freezing_that_can_not_be_meant(start):
    def refuse(message, **changes):
        overrides = {key.replace("__", "."): value for key, value in changes.items()}
        with pytest.raises(ConfigError, match=message):
            check_config(ClassifyConfig.load("digits", overrides))

    refuse("model.freeze needs model.weights: parts that were never trained", model__freeze="stem")
    refuse("model.freeze_epochs needs model.freeze, the parts", model__freeze_epochs=2, model__weights=str(start))
    refuse("model.freeze_epochs must be from 1 to", model__freeze_epochs=0)
    refuse(r"trainer\.patience must be from 1 to", trainer__patience=0)
    refuse("optimizer.layer_decay must be greater than 0 and at most 1", optimizer__layer_decay=1.5)
    network = timm.create_model("test_resnet")
    with pytest.raises(ConfigError, match=r"no part 'layer5' in the backbone \(stem, conv1, bn1, layer1, .*, norms\)"):
        chosen_parts(network, "layer1,layer5")
    with pytest.raises(ConfigError, match="no part ''"):
        chosen_parts(network, "layer1,")
    with pytest.raises(ConfigError, match="nothing is left to train"):
        chosen_parts(network, "backbone,fc")


def test_a_detectors_frozen_parts_are_those_that_are_named(tmp_path):
    torch.save(timm.create_model("rednet_nano", in_chans=3).state_dict(), tmp_path / "start.pth")
    overrides = {"model.weights": str(tmp_path / "start.pth"), "model.freeze": "stem,layer2"}
    config = DetectConfig.load("digit-scenes", overrides)
    from involution.engine.tasks.detect.network import create_detector

    network = create_detector(config, 10, True)
    freeze(network, config.model)
    frozen = {name.split(".")[3] for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "bn1", "layer2"}
    # as published, where nothing is named
    published = create_detector(replace(config, model=replace(config.model, freeze=None)), 10, True)
    frozen = {name.split(".")[3] for name, value in published.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert freeze(published, replace(config.model, freeze=None)) is None


@pytest.mark.parametrize(
    "name", ["rednet50", "rednet_nano", "rednet26_stem7", "rednet50_conv", "test_resnet", "test_vit"]
)
def test_layer_decay_is_timms(name):
    network = timm.create_model(name, num_classes=7)
    theirs = {}
    for group in param_groups_layer_decay(network, weight_decay=0.0, layer_decay=0.75):
        theirs.update({id(value): group["lr_scale"] for value in group["params"]})
    config = OptimizerConfig(lr=1.0, weight_decay=0.0, layer_decay=0.75)
    ours = {id(value): group["lr"] for group in param_groups(network, config) for value in group["params"]}
    assert ours == theirs


def test_rednets_layers_are_the_stem_each_block_and_the_classifier():
    network = timm.create_model("rednet26", num_classes=3)
    depths = layer_depths(network)
    found = {}
    for name, value in network.named_parameters():
        found.setdefault(depths[id(value)], set()).add(
            ".".join(name.split(".")[: 2 if name.startswith("layer") else 1])
        )
    blocks = ["layer1.0", *(f"layer2.{i}" for i in range(2)), *(f"layer3.{i}" for i in range(4)), "layer4.0"]
    assert [found[depth] for depth in sorted(found, reverse=True)] == [
        {"conv1", "bn1"},
        *({block} for block in blocks),
        {"fc"},
    ]


@pytest.mark.parametrize("build", ["retinanet", "semantic_fpn", "smp_fpn"])
def test_a_backbones_last_block_is_one_below_the_head(build):
    if build == "retinanet":
        network = detection.retinanet(3, Backbone("rednet26", (2, 3, 4)))
    elif build == "semantic_fpn":
        network = segmentation.semantic_fpn(3, Backbone("rednet26"))
    else:
        network = segmentation.smp(build, 3, "rednet26")
    rates = {}
    for group in param_groups(network, OptimizerConfig(lr=1.0, layer_decay=0.5, head_lr_factor=3.0)):
        rates.update({id(value): group["lr"] for value in group["params"]})
    found = {name: rates[id(value)] for name, value in network.named_parameters()}
    last = {rate for name, rate in found.items() if ".layer4.0." in name}
    first = {rate for name, rate in found.items() if ".conv1.0." in name and ".layer" not in name}
    assert (last, first) == ({0.5}, {0.5**9})
    assert {found[name] for name in found if "layer" not in name.replace("layer_blocks", "")} >= {3.0}


def test_layers_of_a_network_that_has_none():
    with pytest.raises(ConfigError, match="the layers of Sequential have no order that timm knows"):
        layer_depths(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_training_stops_early_and_a_resumed_run_counts_on(make_config, press_ctrl_c, monkeypatch):
    # as good is no better
    monkeypatch.setattr(ClassificationTask, "val_figures", lambda self: {"loss": 1.0, "accuracy": 0.5})
    changes = {"trainer__epochs": 9, "trainer__patience": 3}
    result = train(make_config("whole", **changes), progress=False)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert result.stopped_early
    # the end of the steps that were asked for is not early
    assert not train(make_config("steps", trainer__steps=1, **changes), progress=False).stopped_early
    press_ctrl_c("training_step", 11)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(make_config("parts", **changes), progress=False)
    resumed = train(make_config("parts", **changes), progress=False, resume=stop.value.checkpoint)
    assert len(resumed.history) == 4
    with pytest.raises(ConfigError, match=r"stopped early \(3 epochs without .*\); raise --trainer\.patience"):
        train(make_config("parts", **changes), progress=False, resume=resumed.last)
    more = {**changes, "trainer__patience": 5}
    assert len(train(make_config("parts", **more), progress=False, resume=resumed.last).history) == 6
    forever = {**changes, "trainer__patience": None, "trainer__epochs": 7}
    assert len(train(make_config("parts", **forever), progress=False, resume=resumed.last).history) == 7


def test_the_rate_that_is_told_is_that_of_a_layer_without_factors(make_config):
    config = make_config(optimizer__layer_decay=0.5, optimizer__head_lr_factor=4.0, trainer__epochs=1)
    plain = make_config("plain", trainer__epochs=1)
    rates = [train(one, progress=False).history[0]["learning_rate"] for one in (config, plain)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def test_balanced_sampling_draws_every_class_as_often_on_all_devices_alike():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    weights = balanced_weights(labels, 3)[labels]
    drawn = [index for epoch in range(4) for index in batches(weights, epoch=epoch)]
    shares = np.bincount(labels[drawn], minlength=3) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert batches(weights) == batches(weights)
    assert batches(weights) != batches(weights, epoch=1)
    parts = [batches(weights, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(batches(weights))
    assert sorted(batches(None)) == list(range(1000))


def batches(weights, epoch=0, **device):
    made = TrainBatches(1000, 100, weights=weights, **device)
    made.set_epoch(epoch)
    return [index for batch in made for _, index in batch]


def test_weighted_loss_is_the_mean_over_classes(make_config, monkeypatch):
    original = run.open_data

    def opened(*args):
        data = original(*args)
        rare = np.flatnonzero((data.train.labels.numpy() > 1) | (np.arange(len(data.train)) < 500))
        return replace(data, parts={**data.parts, "train": data.train.subset(rare)})

    monkeypatch.setattr(run, "open_data", opened)
    config = make_config(data__balance="loss")
    data = opened(run.get_task("classify"), config)
    module = run.make_module(run.get_task("classify"), config, data, 1, fresh=True)
    labels = data.train.labels
    counts = torch.bincount(labels, minlength=10)
    assert module.class_weights * counts == pytest.approx(torch.full((10,), len(labels) / 10).tolist())
    module.mix = None
    module.model = torch.nn.Identity()
    logits = torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(0))
    smoothing = replace(config.trainer, label_smoothing=0.0)
    module.config = replace(config, trainer=smoothing)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    by_class = torch.stack([losses[labels == label].mean() for label in range(10)])
    assert float(module.training_step((logits, labels), 0)) == pytest.approx(float(by_class.mean()), rel=1e-5)


def figures(confusion, classes):
    common = {"num_images": 6, "images_per_second": 1.0, "classes": classes, "split": "val"}
    return ClassificationFigures(top1=0.5, top5=None, loss=1.0, confusion=torch.tensor(confusion), **common)


def test_figures_of_classes_are_scikit_learns():
    true, predicted = [0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 0, 1, 1, 0, 2, 2, 1]
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (true, predicted), 1)
    found = figures(confusion.tolist(), list("abcd"))
    wanted = precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)
    for place, name in enumerate(("precision", "recall", "f1", "images")):
        assert [row[name] for row in found.per_class] == pytest.approx(wanted[place].tolist())
    assert found.mean_f1 == pytest.approx(wanted[2][:3].mean())
    assert found.summary().startswith("lowest F1: ")
    assert found.to_dict()["per_class"][0]["name"] == "a"


def test_top_5_is_told_for_more_than_five_classes(make_config):
    assert "top-5" not in figures([[1, 0], [0, 1]], ["a", "b"]).table()[0]
    assert figures([[1, 0], [0, 1]], ["a", "b"]).to_dict()["top5"] is None
    result = train(make_config(trainer__epochs=1), progress=False)
    found = evaluate(result.best, split="val")
    assert "top-5" in found.table()[0]
    assert len(found.difficulty) == found.num_images
    assert np.mean(found.difficulty) == pytest.approx(found.loss, rel=1e-5)
