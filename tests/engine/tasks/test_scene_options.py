"""Every setting of detection and segmentation must change something, as test_options does it for classification."""

import dataclasses
import json

import pytest
import torch

from involution.data.registry import Options
from involution.data.scenes import make_digit_scenes
from involution.engine import DetectConfig, SegmentConfig, plan, run, trainer
from involution.engine.callbacks import RunRecorder
from involution.engine.settings import setting_names
from involution.engine.signals import StopFlag
from involution.engine.task import get_task

CONFIGS = {"detect": DetectConfig, "segment": SegmentConfig}
# settings that every task has, which test_options tries: here it is enough that the task hands them on
LEVELS = "model.levels"
COMMON = {
    "trainer.accelerator",
    "trainer.sync_batchnorm",
    "trainer.strategy",
    "trainer.activation_checkpointing",
    "name",
    "output",
    "devices",
}
# what is left of a run that something happened to, which test_faults and test_run_folder try
COMMON |= {"trainer.keep", "trainer.checkpoint_every", "trainer.on_nan"}
# how a data set is read, which test_reading_options tries
COMMON |= {f"data.{item.name}" for item in dataclasses.fields(Options)}
SHARED = {
    "seed": 1,
    "data.mean": (0.2, 0.2, 0.2),
    "data.std": (0.4, 0.4, 0.4),
    "data.batch_size": 2,
    "data.cache": False,
    "data.workers": 1,
    "augment.flip": 1.0,
    "augment.photometric": True,
    "compile": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.03,
    "optimizer.momentum": 0.5,
    "optimizer.weight_decay": 0.3,
    "optimizer.decay_norm_and_bias": True,
    "optimizer.head_lr_factor": 3.0,
    "optimizer.layer_decay": 0.5,
    "schedule.decay": "linear",
    "schedule.update": "epoch",
    "schedule.final": 0.5,
    "schedule.milestones": [7],
    "schedule.gamma": 0.5,
    "schedule.power": 3.0,
    "schedule.warmup_epochs": 5.5,
    "schedule.warmup_steps": 7,
    "schedule.warmup_start": 0.5,
    "trainer.epochs": 9,
    "trainer.steps": 33,
    "trainer.patience": 2,
    "logger": "none",
    "trainer.precision": "64-true",
    "trainer.clip_grad_norm": 0.1,
    "trainer.accumulate": 2,
    "trainer.ema_decay": 0.5,
    "trainer.channels_last": True,
    "model.backbone": "rednet_nano_conv",
    "model.backbone_args": {"drop_path_rate": 0.3},
    "model.norm": "group",
    "model.neck": "involution",
    "model.weights": "weights.pth",
    "model.freeze": "layer1",
    "model.freeze_epochs": 2,
    "data.spec": "other",
}
OWN = {
    "detect": {
        "model.name": "mask_rcnn",
        "model.levels": [1, 3],
        "model.head": "involution",
        "model.args": {"out_channels": 16, "anchor_sizes": [8, 16, 32, 64]},
        "data.min_size": [64],
        "data.max_size": 150,
    },
    "segment": {
        "model.name": "upernet",
        "model.levels": [2, 3],
        "model.class_weights": [0.1] + [1.0] * 10,
        "model.dice_weight": 0.25,
        "model.args": {"head_channels": 16},
        "data.min_size": 96,
        "augment.scale": (0.5, 1.5),
        "augment.crop": (64, 64),
        "augment.class_limit": 0.5,
        "augment.rotate": 30.0,
        "augment.shear": 30.0,
        "augment.zoom": (0.5, 0.7),
        "trainer.label_smoothing": 0.3,
    },
}
FROM_WEIGHTS = {"model.weights": "weights.pth", "model.backbone_args": {}, LEVELS: [1, 2, 3]}
# with these the setting matters; the comparison is with a run that has them, too
BASES = {
    # pooling adds a level to those of the backbone
    ("detect", "model.levels"): {
        "model.name": "faster_rcnn",
        "model.args": {"anchor_sizes": [8, 16, 32]},
        LEVELS: [2, 3],
    },
    ("detect", "model.freeze"): {"model.weights": "weights.pth"},
    ("segment", "model.freeze"): FROM_WEIGHTS,
    ("detect", "model.freeze_epochs"): {"model.weights": "weights.pth", "model.freeze": "layer1"},
    ("segment", "model.freeze_epochs"): {**FROM_WEIGHTS, "model.freeze": "layer1"},
    ("segment", "model.name"): {"model.args": {"head_channels": 16}},
    ("segment", "model.weights"): {"model.backbone_args": {}, LEVELS: [1, 2, 3]},
    ("segment", "augment.scale"): {"data.min_size": 96, "augment.crop": (64, 64)},
    ("segment", "augment.class_limit"): {"augment.crop": (64, 64)},
    ("segment", "data.min_size"): {"augment.crop": (64, 64)},
    **{(task, "schedule.warmup_start"): {"schedule.warmup_steps": 50} for task in CONFIGS},
    **{
        (task, name): {"schedule.decay": "step", "schedule.milestones": [1]}
        for task in CONFIGS
        for name in ("schedule.milestones", "schedule.gamma")
    },
    **{(task, "schedule.power"): {"schedule.decay": "poly"} for task in CONFIGS},
}
# classes weigh the same in a detector's loss: refused, and tested there
REFUSED = {"detect": {"trainer.label_smoothing"}, "segment": set()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("options") / "scenes", {"train": 6, "val": 2})


@pytest.fixture
def weights(tmp_path):
    import timm

    torch.manual_seed(5)
    torch.save(timm.create_model("rednet_nano", in_chans=3).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def fingerprint(task, root, tmp_path, changes, monkeypatch):
    """All that a run would compute with, without its steps: network, batches, loss, optimiser, schedule, trainer."""
    spec = get_task(task)
    kind = "coco" if task == "detect" else "masks"
    fast = {"output": str(tmp_path), "data.spec": f"{kind}:{root}", "data.workers": 0, "data.batch_size": 4}
    fast |= {"trainer.epochs": 3, "trainer.precision": "32-true", "trainer.channels_last": False}
    config = CONFIGS[task].load("digit-scenes", {**fast, **changes})
    # so few steps would shorten the warm-up
    config = dataclasses.replace(plan.fitted(config, 6, 1)[0], schedule=config.schedule)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    data = run.open_data(spec, config)
    module = run.make_module(spec, config, data, 2, fresh=True)
    images = spec.train_set(config, data)
    made = trainer.make_trainer(config, RunRecorder(config.run_dir, StopFlag()), progress=False)
    train_loader, _ = run.make_loaders(spec, config, data, images, made, (0, 0))
    torch.manual_seed(0)
    batch = spec.collate([images[key] for key in next(iter(train_loader.batch_sampler))])
    module.train()
    loss = module.training_step(batch, 0)
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    rates = [schedule.lr_lambdas[0](step) for step in range(20)]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    layout = [weight.is_contiguous() for weight in module.model.parameters()]
    facts = [
        float(loss.detach()),
        type(optimizer).__name__,
        str(groups),
        rates,
        made.max_epochs,
        made.precision,
        layout,
    ]
    facts += [made.gradient_clip_val, made.accumulate_grad_batches, [type(item).__name__ for item in made.callbacks]]
    facts += [type(made.logger).__name__]
    eval_image, _ = spec.eval_set(config, data.val)[0]
    facts += [eval_image.double().sum().item(), list(eval_image.shape), str(getattr(module.model, "transform", ""))]
    facts += [compiled, train_loader.num_workers, data.spec, type(images.cached).__name__]
    facts += [[image.double().sum().item() for image in batch[0]], [str(batch[1])[:4000]]]
    facts += [sum(value.double().abs().sum().item() for value in module.model.state_dict().values())]
    facts += [sum(weight.requires_grad for weight in module.model.parameters())]
    return json.dumps(facts)


@pytest.mark.parametrize("task", CONFIGS)
def test_no_setting_is_forgotten(task):
    known = COMMON | SHARED.keys() | OWN[task].keys() | REFUSED[task]
    assert set(setting_names(CONFIGS[task])) <= known


@pytest.fixture(scope="module")
def baselines():
    """What unchanged runs compute with, kept between tests."""
    return {}


@pytest.mark.parametrize("task", CONFIGS)
def test_unchanged_settings_change_nothing(task, root, tmp_path, monkeypatch):
    assert fingerprint(task, root, tmp_path, {}, monkeypatch) == fingerprint(task, root, tmp_path, {}, monkeypatch)


# what is skipped is tested with broken files, by test_detect and test_segment
KEYS = [(task, key) for task in CONFIGS for key in (*SHARED, *OWN[task])]


@pytest.mark.parametrize(("task", "key"), KEYS)
def test_setting_changes_something(task, key, root, weights, tmp_path, monkeypatch, baselines):
    def filled(changes):
        return {name: str(weights) if value == "weights.pth" else value for name, value in changes.items()}

    value = f"digit-scenes:{root}" if key == "data.spec" else {**SHARED, **OWN[task]}[key]
    base = BASES.get((task, key), {})
    if base or task not in baselines:
        before = fingerprint(task, root, tmp_path, filled(base), monkeypatch)
        if not base:
            baselines[task] = before
    else:
        before = baselines[task]
    assert fingerprint(task, root, tmp_path, filled({**base, key: value}), monkeypatch) != before
