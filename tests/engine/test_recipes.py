"""Each recipe, run for two steps on generated data in its real format."""

import pytest
import torch
from generated import image_folder, shards
from torch import nn

from involution.engine import evaluate, run, train
from involution.engine.checkpoint import ModelCard
from involution.engine.config import recipe_names
from involution.engine.task import get_task, task_names
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask


@pytest.fixture
def steps(monkeypatch):
    """Learning rate, loss, images and labels of every step."""
    seen = []
    original = ClassificationTask.training_step

    def record(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        rate = self.optimizers().param_groups[0]["lr"]
        seen.append({"lr": rate, "loss": float(loss.detach()), "images": batch[0], "labels": batch[1]})
        return loss

    monkeypatch.setattr(ClassificationTask, "training_step", record)
    return seen


def recipe(recipe_name, tmp_path, **changes):
    # small pictures and batches, so that two steps of the real network take seconds
    small = {"output": str(tmp_path / "runs"), "data.workers": 0, "data.batch_size": 8, "data.image_size": 64}
    return ClassifyConfig.load(
        recipe_name, {**small, **{key.replace("__", "."): value for key, value in changes.items()}}
    )


def test_all_recipes_are_here():
    assert recipe_names("classify") == ["digits", "finetune", "imagenet", "imagenet-modern"]


def test_imagenet_is_the_published_recipe(tmp_path, steps):
    config = ClassifyConfig.load("imagenet")
    assert (config.optimizer.name, config.optimizer.lr, config.data.batch_size) == ("sgd", 0.8, 2048)
    assert (config.trainer.epochs, config.trainer.label_smoothing) == (130, 0.1)
    assert (config.data.image_size, config.data.crop_pct, config.data.interpolation) == (224, 0.875, "bilinear")
    assert [m * 255 for m in config.data.mean] == pytest.approx([123.675, 116.28, 103.53])
    assert [s * 255 for s in config.data.std] == pytest.approx([58.395, 57.12, 57.375])
    assert (config.augment.crop_scale, config.augment.flip) == ((0.08, 1.0), 0.5)
    others = (config.augment.randaugment, config.augment.mixup, config.augment.cutmix, config.augment.erase)
    assert others == (0, 0.0, 0.0, 0.0)

    root = image_folder(tmp_path / "imagenet", splits=("train", "val"), classes=("n01", "n02"))
    changes = {"data.spec": f"imagenet:{root}", "model.name": "rednet26", "trainer.epochs": 1}
    # the rate is meant for batches of 2048
    config = recipe("imagenet", tmp_path, **changes, trainer__clip_grad_norm=0.1)
    result = train(config, progress=False)
    assert len(steps) == 2
    # two steps: of the ten of the warm-up, one is left
    assert [step["lr"] for step in steps] == pytest.approx([0.2, 0.8])
    assert steps[0]["images"].shape == (8, 3, 64, 64)
    assert result.best.is_file()


def test_published_label_smoothing(tmp_path):
    config = ClassifyConfig.load("imagenet")
    # the right one of 1000 classes is aimed at 0.9 + 0.1 / 1000, each other one at 0.1 / 1000
    logits = torch.randn(4, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 500, 999])
    targets = torch.full((4, 1000), 0.0001, dtype=torch.float64)
    targets[range(4), labels] = 0.9001
    wanted = -(targets * logits.log_softmax(1)).sum(1).mean()
    card = ModelCard("classify", "", {}, list(map(str, range(1000))), (3, 1, 1), (), (), "", 1.0, {}, {})
    loss = ClassificationTask(nn.Identity(), config, card, 1).training_step((logits, labels), 0)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)


def test_imagenet_modern_on_webdataset(tmp_path, steps):
    root = shards(tmp_path / "shards", names=("train-000", "train-001", "val-000"), per_shard=9)
    config = recipe(
        "imagenet-modern",
        tmp_path,
        data__spec=f"webdataset:{root}/{{train-{{000..001}},val-000}}.tar",
        model__name="rednet26",
        trainer__epochs=1,
        trainer__precision="32-true",
    )
    result = train(config, progress=False)
    assert len(steps) == 2
    assert [step["lr"] for step in steps] == pytest.approx([5e-3 * 1e-4, 5e-3 * 0.5], rel=1e-6)
    found = torch.load(result.last, weights_only=True)
    assert "current_model_state" in found
    decays = {group["weight_decay"] for group in found["optimizer_states"][0]["param_groups"]}
    assert decays == {0.0, 0.02}
    modern = ClassifyConfig.load("imagenet-modern")
    assert (modern.optimizer.name, modern.trainer.precision) == ("lamb", "bf16-mixed")
    assert modern.augment.mixup
    assert modern.augment.cutmix
    assert modern.augment.randaugment


def test_finetune_starts_from_weights_with_a_new_head(tmp_path, steps):
    root = image_folder(tmp_path / "pictures", classes=("ant", "bee"))
    # by itself it starts from the published weights
    assert all(get_task(task).config.load("finetune").model.weights == "rednet50" for task in task_names()[:3])
    changes = {"data.spec": f"imagefolder:{root}", "trainer.epochs": 1, "model.name": "rednet26"}
    first = recipe("finetune", tmp_path, **changes, model__weights=None, name="first")
    before = train(first, progress=False)
    other = image_folder(tmp_path / "more", classes=("ant", "bee", "cat"), per_class=6)
    changes["data.spec"] = f"imagefolder:{other}"
    config = recipe("finetune", tmp_path, **changes, model__weights=str(before.best))

    data = run.open_data(get_task("classify"), config)
    start = run.make_module(get_task("classify"), config, data, 2, fresh=True).model.state_dict()
    kept = torch.load(before.best, weights_only=True)["state_dict"]
    head = [name for name in start if name.startswith("fc")]
    assert all(torch.equal(start[name], kept[f"model.{name}"]) for name in start if name not in head)
    assert start["fc.weight"].shape[0] == 3

    steps.clear()
    result = train(config, progress=False)
    assert len(steps) == 2
    groups = torch.load(result.last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {(group["initial_lr"], group["weight_decay"]) for group in groups} == {
        (0.005, 1e-4),
        (0.005, 0.0),
        (0.05, 1e-4),
        (0.05, 0.0),
    }


def test_digits_recipe(tmp_path, steps):
    config = ClassifyConfig.load("digits", {"output": str(tmp_path), "data.batch_size": 512, "trainer.epochs": 1})
    assert (config.model.name, config.data.image_size, config.data.channels) == ("rednet_nano", 16, 1)
    result = train(config, progress=False)
    assert len(steps) == 2
    assert steps[0]["lr"] == pytest.approx(config.optimizer.lr * 0.1)
    assert steps[0]["images"].shape == (512, 1, 16, 16)
    assert evaluate(result.best).num_images == 360


def test_cifar_by_overrides(tmp_path, steps):
    from generated import cifar_binary

    spec = f"cifar10:{cifar_binary(tmp_path / 'cifar', records=30)}"
    changes = {"data.image_size": 32, "data.batch_size": 60, "trainer.epochs": 1, "model.name": "rednet_nano"}
    result = train(recipe("imagenet", tmp_path, data__spec=spec, **changes), progress=False)
    assert len(steps) == 2
    assert steps[0]["images"].shape == (60, 3, 32, 32)
    assert evaluate(result.best).num_images == 30
