"""The published recipes of detectors."""

import numpy as np
import pytest
import timm
import torch

import involution.models  # noqa: F401
from involution.data.scenes import make_digit_scenes
from involution.engine import train
from involution.engine.config import recipe_names
from involution.engine.optimizer import param_groups
from involution.engine.schedule import lr_factor
from involution.engine.tasks.detect.config import DetectConfig
from involution.engine.tasks.detect.network import create_detector

# facts of the published recipes: learning rate, warm-up, clipping, frozen parameters
PUBLISHED = {
    "coco-retinanet": (0.01, 2000, None, 27_814_100),
    "coco-retinanet-involution-neck": (0.01, 2000, 40.0, 26_246_276),
    "coco-faster-rcnn": (0.02, 500, None, 31_602_564),
    "coco-faster-rcnn-involution-neck": (0.02, 2000, None, 29_512_132),
    "coco-faster-rcnn-involution-neck-head": (0.02, 2000, 5.0, 28_989_524),
    "coco-mask-rcnn": (0.02, 500, None, 34_246_101),
    "coco-mask-rcnn-involution-neck": (0.02, 2000, None, 32_155_669),
    "coco-mask-rcnn-involution-neck-head": (0.02, 2000, 5.0, 29_542_629),
}


def test_there_are_no_other_recipes():
    assert recipe_names("detect") == sorted([*PUBLISHED, "coco-detr", "digit-scenes", "digit-scenes-detr", "finetune"])


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "rednet50_stem7.pth"
    torch.save(timm.create_model("rednet50_stem7").state_dict(), file)
    return str(file)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_recipe(recipe, imagenet_weights):
    lr, warmup, clip, parameters = PUBLISHED[recipe]
    config = DetectConfig.load(recipe, {"model.weights": imagenet_weights})
    trainer, data = config.trainer, config.data
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("momentum", lr, 0.9)
    assert (trainer.epochs, trainer.clip_grad_norm, data.batch_size) == (12, clip, 16)
    assert (data.min_size, data.max_size, config.augment.flip) == ([800], 1333, 0.5)
    model = create_detector(config, 80, weights=True)
    groups = param_groups(model, config.optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(lr, 1e-4)]
    assert sum(p.numel() for p in groups[0]["params"]) == parameters
    frozen = {name.split(".")[3] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    # 118,287 images less those without annotations: 117,266
    steps = 117_266 // 16
    rates = {
        0: 0.001,
        warmup // 2: 0.001 + 0.999 / 2,
        warmup: 1,
        8 * steps - 1: 1,
        8 * steps: 0.1,
        11 * steps - 1: 0.1,
        11 * steps: 0.01,
        12 * steps - 1: 0.01,
    }
    for step, rate in rates.items():
        assert lr_factor(step, steps, 12, config.schedule) == pytest.approx(rate), step


def test_published_detr(imagenet_weights):
    config = DetectConfig.load("coco-detr", {"model.weights": imagenet_weights})
    assert (config.trainer.epochs, config.trainer.clip_grad_norm, config.data.batch_size) == (300, 0.1, 64)
    model = create_detector(config, 80, weights=True)
    groups = {group["lr"]: group for group in param_groups(model, config.optimizer)}
    assert {lr: group["weight_decay"] for lr, group in groups.items()} == pytest.approx({1e-5: 1e-4, 1e-4: 1e-4})
    # the frozen stem and first stage, and the scale and shift of every other norm, do not train
    body = timm.create_model("rednet50_stem7", num_classes=0)
    stages = [body.layer2, body.layer3, body.layer4]
    norms = {id(p) for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    wanted = sum(p.numel() for stage in stages for p in stage.parameters() if id(p) not in norms)
    assert sum(p.numel() for p in groups[1e-5]["params"]) == wanted
    for epoch, rate in {0: 1, 199: 1, 200: 0.1, 299: 0.1}.items():
        assert lr_factor(epoch * 7, 7, 300, config.schedule) == pytest.approx(rate), epoch


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*PUBLISHED, "coco-detr"])
def test_published_recipe_takes_two_steps(recipe, tmp_path, imagenet_weights):
    root = make_digit_scenes(tmp_path / "scenes", {"train": 24, "val": 8})
    changes = {
        "model.weights": imagenet_weights,
        "data.spec": f"coco:{root}",
        "data.batch_size": 12,
        "data.workers": 0,
        "data.min_size": [96],
        "trainer.epochs": 1,
        "schedule.milestones": [1],
        "output": str(tmp_path),
    }
    result = train(DetectConfig.load(recipe, changes), progress=False)
    assert np.isfinite(result.history[0]["train_loss"])
