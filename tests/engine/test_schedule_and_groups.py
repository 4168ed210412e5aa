import math

import pytest
import timm
import torch

from involution.engine import ClassifyConfig
from involution.engine.config import ConfigError, OptimizerConfig, ScheduleConfig
from involution.engine.optimizer import make_optimizer, param_groups
from involution.engine.schedule import lr_factor
from involution.engine.settings import check_settings

# 1,281,167 training images in batches of 2048
STEPS = 625


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        # warm-up from a quarter of 0.8, by step, over 5 epochs of 625 steps
        (0, 0.2),
        (1, 0.8 * (1 - (1 - 1 / 3125) * 0.75)),
        (624, 0.8 * (0.25 + 0.75 * 624 / 3125)),
        # the cosine already runs beneath it, fixed within an epoch
        (625, 0.8 * 0.5 * (1 + math.cos(math.pi / 130)) * 0.4),
        (3124, 0.8 * 0.5 * (1 + math.cos(math.pi * 4 / 130)) * (1 - 0.75 / 3125)),
        # afterwards the cosine alone
        (3125, 0.8 * 0.5 * (1 + math.cos(math.pi * 5 / 130))),
        (3749, 0.8 * 0.5 * (1 + math.cos(math.pi * 5 / 130))),
        (65 * 625, 0.4),
        (129 * 625, 0.8 * 0.5 * (1 + math.cos(math.pi * 129 / 130))),
        (130 * 625, 0.0),
    ],
)
def test_published_imagenet_schedule(step, rate):
    config = ClassifyConfig.load("imagenet")
    assert config.optimizer.lr * lr_factor(step, STEPS, 130, config.schedule) == pytest.approx(rate, abs=1e-12)


def test_other_schedules():
    linear = ScheduleConfig(decay="linear", final=0.1)
    assert lr_factor(50, 10, 10, linear) == pytest.approx(0.55)
    assert lr_factor(100, 10, 10, linear) == pytest.approx(0.1)
    constant = ScheduleConfig(decay="constant", warmup_epochs=1)
    assert [lr_factor(step, 10, 10, constant) for step in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    # by step the cosine moves within an epoch, by epoch it does not
    by_step, by_epoch = ScheduleConfig(update="step"), ScheduleConfig(update="epoch")
    assert lr_factor(15, 10, 10, by_step) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.15)))
    assert lr_factor(15, 10, 10, by_epoch) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))


def test_wrong_schedule_words():
    with pytest.raises(
        ConfigError, match=r"schedule\.decay must be one of cosine, linear, constant, step, poly, got 'cos'"
    ):
        check_settings(ClassifyConfig(schedule=ScheduleConfig(decay="cos")))
    with pytest.raises(ConfigError, match=r"schedule\.update must be step or epoch"):
        check_settings(ClassifyConfig(schedule=ScheduleConfig(update="batch")))


@pytest.fixture(scope="module")
def model():
    return timm.create_model("test_resnet", num_classes=5)


def test_published_recipe_decays_every_parameter(model):
    optimizer = make_optimizer(model, ClassifyConfig.load("imagenet").optimizer)
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    wanted = {"lr": 0.8, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True, "dampening": 0}
    assert {key: group[key] for key in wanted} == wanted


def test_norms_and_biases_without_decay(model):
    groups = param_groups(model, OptimizerConfig(weight_decay=0.1, decay_norm_and_bias=False))
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1]
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_head_learns_faster(model):
    groups = param_groups(model, ClassifyConfig.load("finetune").optimizer)
    head = {id(p) for p in model.get_classifier().parameters()}
    for group in groups:
        fast = {id(p) in head for p in group["params"]}
        assert len(fast) == 1
        assert group["lr"] == pytest.approx(0.05 if fast.pop() else 0.005)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_momentum_reaches_every_kind_of_optimizer(model):
    assert make_optimizer(model, OptimizerConfig(name="adamw", momentum=0.8)).param_groups[0]["betas"][0] == 0.8
    assert make_optimizer(model, OptimizerConfig(name="momentum", momentum=0.8)).param_groups[0]["momentum"] == 0.8
    assert not make_optimizer(model, OptimizerConfig(name="momentum")).param_groups[0]["nesterov"]
    assert type(make_optimizer(model, ClassifyConfig.load("imagenet-modern").optimizer)).__name__ == "Lamb"


def test_unknown_optimizer(model):
    with pytest.raises(ConfigError, match="no optimizer named 'adamv'; did you mean adam"):
        make_optimizer(model, OptimizerConfig(name="adamv"))


@pytest.mark.parametrize("has", [True, False])
def test_muon_multiplies_in_float32_where_bfloat16_is_slow(has, monkeypatch, capsys):
    seen = []

    def multiply(update, *args, dtype=torch.bfloat16, **kwargs):
        seen.append(dtype)
        return update

    monkeypatch.setattr("timm.optim.muon.zeropower_via_newtonschulz", multiply)
    monkeypatch.setattr("involution.engine.optimizer.cpu_has_bfloat16", lambda: has)
    network = timm.create_model("rednet_nano", num_classes=2)
    for _ in range(2):
        # once more, as in the next training of a process
        optimizer = make_optimizer(network, OptimizerConfig(name="nmuon"))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert set(seen) == {torch.bfloat16 if has else torch.float32}
    assert ("nmuon multiplies in float32" in capsys.readouterr().err) == (not has)
