"""Every setting must change something: what training computes, or how and where it runs."""

from dataclasses import replace

import lightning
import numpy as np
import pytest
import timm
import torch
from torch import nn

from involution.engine import ClassifyConfig, run, train, trainer
from involution.engine.callbacks import EarlyStop, RunRecorder
from involution.engine.settings import setting_names
from involution.engine.signals import StopFlag
from involution.engine.task import get_task

CHANGES_WEIGHTS = {
    "seed": 1,
    "model.args": {"drop_rate": 0.5},
    "data.mean": (0.2,),
    "data.std": (0.2,),
    "data.image_size": 10,
    "data.batch_size": 32,
    "data.split_seed": 1,
    "data.balance": "sampling",
    "augment.crop_scale": (0.3, 0.9),
    "augment.flip": 0.5,
    "augment.rotate": 40.0,
    "augment.translate": 0.2,
    "augment.scale": (0.5, 0.7),
    "augment.shear": 30.0,
    "augment.randaugment": 1,
    "augment.erase": 0.9,
    "augment.mixup": 1.0,
    "augment.cutmix": 1.0,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.02,
    "optimizer.momentum": 0.5,
    "optimizer.weight_decay": 0.5,
    "optimizer.decay_norm_and_bias": True,
    "optimizer.head_lr_factor": 3.0,
    "optimizer.layer_decay": 0.5,
    "schedule.decay": "constant",
    "schedule.update": "epoch",
    "schedule.final": 0.5,
    "schedule.warmup_epochs": 0.5,
    "schedule.warmup_steps": 1,
    "trainer.label_smoothing": 0.2,
    "trainer.precision": "bf16-mixed",
    "trainer.clip_grad_norm": 0.1,
    "trainer.accumulate": 2,
    "trainer.ema_decay": 0.5,
    "trainer.epochs": 2,
    "trainer.steps": 5,
}
# with these the baseline makes the setting matter
BASES = {
    "data.interpolation": {"data.image_size": 11},
    "augment.randaugment_magnitude": {"augment.randaugment": 2},
    "model.freeze": {"model.weights": "weights.pth"},
    "model.freeze_epochs": {"model.weights": "weights.pth", "model.freeze": "stem", "trainer.epochs": 2},
    "schedule.warmup_start": {"schedule.warmup_epochs": 0.5},
    "schedule.milestones": {"schedule.decay": "step", "schedule.milestones": [1]},
    "schedule.power": {"schedule.decay": "poly"},
    "schedule.gamma": {"schedule.decay": "step", "schedule.milestones": [0]},
    # oneDNN's gradient of a 3×3 convolution of a single pixel in bfloat16, which test_resnet has, is at times NaN
    "trainer.precision": {"model.name": "rednet_nano"},
}
WITH_BASE = {
    "model.freeze": "stem",
    "model.freeze_epochs": 1,
    "data.interpolation": "bicubic",
    "augment.randaugment_magnitude": 25,
    "schedule.warmup_start": 0.5,
    "schedule.milestones": [0],
    "schedule.gamma": 0.5,
    "schedule.power": 3.0,
}
ELSEWHERE = {
    "name",
    "output",
    "devices",
    "compile",
    "logger",
    "trainer.patience",
    "trainer.keep",
    "trainer.checkpoint_every",
    "trainer.on_nan",
    "model.name",
    "model.weights",
    "data.spec",
    "data.channels",
    "data.crop_pct",
    "data.workers",
    "data.cache",
    "data.classes",
    "data.on_problem",
    "data.allow_empty",
    "data.exif",
    "data.split_by",
    "data.split_copies",
    "data.value_range",
    "trainer.channels_last",
    "trainer.sync_batchnorm",
    # tests/engine/test_sharded_training.py and test_recompute.py
    "trainer.strategy",
    "trainer.activation_checkpointing",
    "trainer.accelerator",
}


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """128 training and 32 validation images: two steps an epoch."""

    original = run.open_data

    def opened(*args):
        data = original(*args)
        parts = {"train": data.train.subset(np.arange(128)), "val": data.val.subset(np.arange(32))}
        return replace(data, parts=parts)

    monkeypatch.setattr(run, "open_data", opened)


def test_no_setting_is_forgotten():
    assert CHANGES_WEIGHTS.keys() | WITH_BASE.keys() | ELSEWHERE == set(setting_names(ClassifyConfig))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(timm.create_model("test_resnet", in_chans=1).state_dict(), file)
    return file


def result(make_config, name, changes):
    config = make_config(name, **{"trainer.epochs": 1, "data.batch_size": 64, **changes})
    return torch.load(train(config, progress=False).last, weights_only=True)["state_dict"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one if "num_batches" not in name)


@pytest.fixture(scope="module")
def baseline():
    """Weights of the unchanged run, kept between tests."""
    return {}


@pytest.mark.parametrize("key", [*CHANGES_WEIGHTS, *WITH_BASE])
def test_setting_changes_the_weights(make_config, baseline, weights, key):
    base = {name: str(weights) if value == "weights.pth" else value for name, value in BASES.get(key, {}).items()}
    if key not in BASES and not baseline:
        baseline.update(result(make_config, "base", {}))
    before = result(make_config, "base", base) if key in BASES else baseline
    value = {**CHANGES_WEIGHTS, **WITH_BASE}[key]
    assert not same(before, result(make_config, "changed", {**base, key: value}))


def parts(make_config, **changes):
    """Module, trainer and loaders of a run that is not started."""
    config = make_config(**changes)
    spec = get_task("classify")
    data = run.open_data(spec, config)
    module = run.make_module(spec, config, data, 4, fresh=True)
    made = trainer.make_trainer(config, RunRecorder(config.run_dir, StopFlag()), progress=False)
    images = spec.train_set(config, data)
    return module, made, *run.make_loaders(spec, config, data, images, made, (0, 0))


def test_settings_of_how_and_where(make_config, monkeypatch, tmp_path):
    compiled, kwargs = [], {}
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    original = lightning.Trainer.__init__

    def record(self, *args, **given):
        kwargs.update(given)
        given.update(sync_batchnorm=False)
        original(self, *args, **given)

    monkeypatch.setattr(lightning.Trainer, "__init__", record)
    module, _, train_loader, val_loader = parts(make_config, data__cache=False)
    assert train_loader.num_workers == val_loader.num_workers == 0
    assert train_loader.dataset.cached is None
    assert not compiled
    assert (kwargs["devices"], kwargs["sync_batchnorm"], kwargs["accelerator"]) == (1, False, "auto")
    assert type(kwargs["logger"]).__name__ == "TensorBoardLogger"

    weight = module.model.conv1[0].weight
    assert weight.is_contiguous()
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit {i}" for i in range(10)))
    changes = {
        "compile": True,
        "logger": "none",
        "trainer.patience": 3,
        "data.workers": 1,
        "data.cache": True,
        "data.channels": 3,
        "data.mean": (0.5, 0.5, 0.5),
        "data.std": (0.5, 0.5, 0.5),
        "data.crop_pct": 0.5,
        "data.classes": str(names),
        "trainer.channels_last": True,
        "trainer.sync_batchnorm": True,
        "trainer.accelerator": "cpu",
        "model.name": "test_efficientnet",
    }
    changed, _, train_loader, val_loader = parts(make_config, **changes)
    assert compiled == [changed.model]
    assert train_loader.num_workers == val_loader.num_workers == 1
    assert train_loader.dataset.cached == {}
    assert (kwargs["sync_batchnorm"], kwargs["accelerator"], kwargs["logger"]) == (True, "cpu", False)
    assert [item.patience for item in kwargs["callbacks"] if isinstance(item, EarlyStop)] == [3]
    weight = changed.model.conv_stem.weight
    assert weight.shape[1] == 3
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(val_loader.dataset[0][0][0], parts(make_config)[3].dataset[0][0][0])
    assert changed.card.classes[3] == "digit 3"
    assert trainer.placement(make_config(devices=2))["devices"] == 2


def test_channels_last_and_double_precision_train(make_config):
    config = make_config(
        trainer__channels_last=True, trainer__precision="64-true", trainer__epochs=1, data__batch_size=64
    )
    found = torch.load(train(config, progress=False).last, weights_only=True)["state_dict"]
    assert found["model.fc.weight"].dtype == torch.float64


@pytest.mark.slow
def test_compiled_run_keeps_the_names_of_its_weights(make_config):
    config = make_config(compile=True, trainer__epochs=1, data__batch_size=64)
    found = torch.load(train(config, progress=False).last, weights_only=True)["state_dict"]
    assert "model.fc.weight" in found
