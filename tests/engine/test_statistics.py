"""What each device's batch norms have seen is in a checkpoint, and goes back to that device."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from involution.engine.process import alone, is_main_process
from involution.engine.statistics import KEY, DeviceStatistics


def module(value):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model[1].running_mean.fill_(value)
    return SimpleNamespace(model=model)


def device(rank, world_size=2):
    return SimpleNamespace(global_rank=rank, world_size=world_size)


@pytest.fixture
def saved(monkeypatch):
    """A checkpoint of two devices whose means are 1 and 3."""

    def gather(everywhere, own):
        everywhere[:] = [own, {name: value + 2 * name.endswith("mean") for name, value in own.items()}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    checkpoint = {}
    DeviceStatistics().on_save_checkpoint(device(0), module(1.0), checkpoint)
    assert [one["1.running_mean"].tolist() for one in checkpoint[KEY]] == [[1, 1], [3, 3]]
    return checkpoint


def mean_after(checkpoint, trainer):
    network, callback = module(0.0), DeviceStatistics()
    callback.on_load_checkpoint(trainer, network, checkpoint)
    callback.on_train_start(trainer, network)
    return network.model[1].running_mean.tolist()


def test_each_device_gets_its_own_back(saved):
    assert mean_after(saved, device(0)) == [1, 1]
    assert mean_after(saved, device(1)) == [3, 3]
    # on another number of devices, all the mean
    assert mean_after(saved, device(0, 1)) == mean_after(saved, device(3, 4)) == [2, 2]


def test_one_device_keeps_none_and_strange_ones_are_left(saved):
    checkpoint = {}
    DeviceStatistics().on_save_checkpoint(device(0, 1), module(1.0), checkpoint)
    assert checkpoint == {}
    wrong = [{}, {KEY: "words"}, {KEY: []}, {KEY: [{"1.running_mean": torch.ones(2)}]}, {KEY: [None]}]
    wrong.append({KEY: [{name: value * torch.nan for name, value in saved[KEY][0].items()}]})
    wrong.append({KEY: [{name: torch.ones(3) for name in saved[KEY][0]}]})
    assert [mean_after(checkpoint, device(0)) for checkpoint in wrong] == [[0, 0]] * len(wrong)


def test_alone_a_process_is_the_main_one(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with alone():
        assert is_main_process()
        assert not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & set(os.environ)
    assert (is_main_process(), os.environ["TORCHELASTIC_RUN_ID"]) == (False, "x")
