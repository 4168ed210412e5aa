"""Predictors whose convolutions do what follows them say what they said before, and the commands use them."""

import pytest
import torch
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint
from pictures import picture
from torch import nn
from trained_norms import trained

from involution.cli import main
from involution.models import FusedConv2d
from involution.predict import load_predictor, predict_many
from involution.serve.network import load_networks
from involution.serve.settings import Settings

TASKS = ("classify", "detect", "segment")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "classify": save_checkpoint(folder / "c.ckpt", channels=3),
        "detect": save_detector(folder / "d.ckpt"),
        "segment": save_segmenter(folder / "s.ckpt"),
    }


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("task", TASKS)
def test_it_says_the_same(task, checkpoints):
    plain, fast = (load_predictor(checkpoints[task], "cpu") for _ in range(2))
    for predictor in (plain, fast):
        trained(predictor.model)
    assert fast.optimize() is fast
    assert count(plain.model, nn.BatchNorm2d)
    assert not count(plain.model, FusedConv2d)
    assert count(fast.model, FusedConv2d)
    assert count(fast.model, nn.BatchNorm2d) < count(plain.model, nn.BatchNorm2d)
    images = [picture(seed) for seed in range(3)]
    for one, other in zip(plain.predict(images), fast.predict(images), strict=True):
        if task == "segment":
            assert (one.labels == other.labels).double().mean() > 0.999
            continue
        assert len(one.scores)
        assert one.labels == other.labels
        assert other.scores == pytest.approx(one.scores, abs=1e-4)
        if task == "detect":
            # where two candidates score alike, rounding chooses
            near = torch.isclose(torch.as_tensor(other.boxes), torch.as_tensor(one.boxes), atol=1e-2)
            assert near.double().mean() > 0.9


@pytest.mark.parametrize("task", TASKS)
def test_the_commands_and_the_server_use_it(task, checkpoints, tmp_path, monkeypatch):
    seen = []
    forward = FusedConv2d.forward
    monkeypatch.setattr(FusedConv2d, "forward", lambda self, *args: seen.append(self) or forward(self, *args))
    picture(1).save(tmp_path / "a.png")
    checkpoint = str(checkpoints[task])

    def used():
        return bool(seen), seen.clear()

    assert main([task, "predict", str(tmp_path / "a.png"), "--checkpoint", checkpoint]) == 0
    assert used()[0]
    predict_many(tmp_path / "a.png", checkpoint, tmp_path / "parts")
    assert used()[0]
    load_networks(Settings((("a", checkpoint),), threads=1))
    assert used()[0]
