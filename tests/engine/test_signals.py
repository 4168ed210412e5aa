"""Whoever asks for the end of a training: the step is finished and saved, and no further signal harms the file."""

import signal

import pytest
import torch

from involution.engine import signals, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.signals import StopFlag

ASKING = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def position(path):
    return torch.load(path, weights_only=True)["involution"]["position"]


@pytest.mark.parametrize("number", ASKING, ids=lambda number: number.name)
def test_a_scheduler_is_answered_within_the_step(make_config, press_ctrl_c, capsys, number):
    before = signal.getsignal(number)
    press_ctrl_c("training_step", 2, number)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(make_config(), progress=False)
    assert position(stop.value.checkpoint) == [0, 2]
    assert capsys.readouterr().err == "\nStopping after this step.\n"
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopFlag() as flag:
        flag.listen()
        signal.raise_signal(signal.SIGHUP)
        assert not flag.raised
    signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_at_once_but_not_a_launchers_echo(monkeypatch):
    with StopFlag() as flag:
        for number in (signal.SIGINT, signal.SIGINT, *ASKING):
            signal.raise_signal(number)
        assert flag.raised
        monkeypatch.setattr(signals, "_ONE_PRESS", 0)
        for number in ASKING:
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)


def test_signals_while_a_checkpoint_is_written_do_no_harm(make_config, press_ctrl_c, monkeypatch):
    monkeypatch.setattr(signals, "_ONE_PRESS", 0)
    save = torch.save

    def interrupted(*args, **kwargs):
        for number in (signal.SIGINT, *ASKING, signal.SIGINT):
            signal.raise_signal(number)
        return save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", interrupted)
    press_ctrl_c("training_step", 3)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(make_config(), progress=False)
    assert position(stop.value.checkpoint) == [0, 3]
    assert [file.name for file in stop.value.checkpoint.parent.glob(".*.tmp")] == []
