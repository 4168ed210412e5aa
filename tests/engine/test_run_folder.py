"""A run's folder after every fault: what goes on from it ends with the bits of a run that nothing happened to."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from engine_runs import FAST

from involution.engine import callbacks, folder_lock, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.config import ConfigError
from involution.engine.files import RECORD
from involution.engine.folder_lock import FolderInUse, FolderLock
from involution.engine.run_folder import kept, rotate
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask
from involution.models import CheckpointError

# two epochs of four steps, the second of which is better
MORE = {"optimizer.lr": 0.002, "trainer.epochs": 2}


class Killed(BaseException):
    """In place of SIGKILL: nothing of ours catches it."""


def contents(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    """Whether two values of a checkpoint are the same, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_as_undisturbed(run, whole):
    for name, parts in {
        "last.ckpt": ("state_dict", "optimizer_states", "lr_schedulers", "global_step"),
        "best.ckpt": ("state_dict",),
    }.items():
        one, other = contents(whole.log_dir / name), contents(run.log_dir / name)
        assert [part for part in parts if not same(one[part], other[part])] == [], name
        assert one["involution"]["position"] == other["involution"]["position"]
    assert contents(whole.best)["involution"]["score"] == contents(run.best)["involution"]["score"] == run.score
    rows = (run.log_dir / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + len(whole.history)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    changes = {**FAST, **MORE, "output": str(tmp_path_factory.mktemp("runs")), "name": "whole"}
    result = train(ClassifyConfig.load("digits", changes), progress=False)
    # the last epoch is the best one
    assert contents(result.best)["involution"]["position"] == [2, 0]
    return result


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of the same run, interrupted within the second epoch."""
    torch.set_num_threads(1)
    config = ClassifyConfig.load(
        "digits", {**FAST, **MORE, "output": str(tmp_path_factory.mktemp("runs")), "name": "stopped"}
    )
    original, calls = ClassificationTask.training_step, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", stopping)
        with pytest.raises(TrainingInterrupted, match="interrupted"):
            train(config, progress=False)
    return config.run_dir


@pytest.fixture
def make_config(make_config):
    return lambda name="run", **changes: make_config(name, **{**MORE, **changes})


@pytest.mark.parametrize("call", [1, 2], ids=["of an epoch", "of the last epoch"])
def test_killed_between_the_two_files(make_config, monkeypatch, whole, call):
    calls = []
    write = callbacks.write_best

    def killed(*args):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        write(*args)

    monkeypatch.setattr(callbacks, "write_best", killed)
    config = make_config("parts")
    with pytest.raises(Killed, match=r"^$"):
        train(config, progress=False)
    assert contents(config.run_dir / "last.ckpt")["involution"]["position"] == [call, 0]
    # the rows of the table may not have been written either
    (config.run_dir / "metrics.csv").unlink()
    assert_as_undisturbed(train(config, progress=False, resume=config.run_dir / "last.ckpt"), whole)


def truncate(file):
    os.truncate(file, 2000)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [flip, truncate, lambda file: os.truncate(file, 0), os.unlink])
def test_a_damaged_checkpoint_and_the_one_before(make_config, stopped, whole, harm, capsys):
    config = make_config("parts")
    last = shutil.copytree(stopped, config.run_dir) / "last.ckpt"
    harm(last)
    capsys.readouterr()
    assert_as_undisturbed(train(config, progress=False, resume="auto"), whole)
    assert f"going on from {last.with_name('last.1.ckpt')} (after 1 epoch)" in capsys.readouterr().err
    for file in kept(config.run_dir):
        flip(file)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        train(config, progress=False, resume=last)


@pytest.mark.parametrize("harm", [flip, os.unlink])
def test_a_damaged_best_checkpoint(make_config, whole, harm, capsys):
    config = make_config("parts")
    result = train(config, progress=False)
    harm(result.best)
    capsys.readouterr()
    # nothing is left to train, and yet there is something to do
    mended = train(config, progress=False, resume=result.last)
    assert "best.ckpt was not that of epoch 2, the best one: written anew" in capsys.readouterr().err
    assert_as_undisturbed(mended, whole)
    with pytest.raises(ConfigError, match="is finished"):
        train(config, progress=False, resume=result.last)


def test_the_best_weights_are_gone(make_config, capsys):
    result = train(make_config(**{"trainer.epochs": 1}), progress=False)
    found = contents(result.last)
    found["callbacks"]["RunRecorder"] |= {"best_score": 0.99, "best_epoch": 7}
    torch.save(found, result.last)
    more = make_config(**{"trainer.epochs": 2})
    again = train(more, progress=False, resume="auto")
    assert "best.ckpt holds epoch 1, and the weights of epoch 7, the best one, are gone" in capsys.readouterr().err
    assert again.score == max(row["val_accuracy"] for row in again.history)


def test_auto_starts_goes_on_and_ends(make_config, press_ctrl_c, whole, capsys):
    config = make_config("parts")
    press_ctrl_c("training_step", 6)
    with pytest.raises(TrainingInterrupted, match="interrupted"):
        train(config, progress=False, resume="auto")
    assert_as_undisturbed(train(config, progress=False, resume="auto"), whole)
    capsys.readouterr()
    finished = train(config, progress=False, resume="auto")
    assert "last.ckpt is finished (2 of 2 epochs)" in capsys.readouterr().err
    assert finished.score == whole.score
    # it may lie elsewhere by now
    shutil.move(config.run_dir, config.run_dir.with_name("moved"))
    longer = train(make_config("moved", **{"trainer.epochs": 3}), progress=False, resume="auto")
    assert len(longer.history) == 3


def test_best_has_weights_and_card_alone(whole):
    best, last = contents(whole.best), contents(whole.last)
    assert set(best) == {"state_dict", "involution", "split", "split_contents", "split_labels"}
    assert best["involution"]["score"] == whole.score
    # half of it: the optimiser keeps one more number for each weight
    assert whole.best.stat().st_size < 0.65 * whole.last.stat().st_size
    assert set(best["state_dict"]) == set(last["state_dict"])
    with pytest.raises(CheckpointError, match=r"has the weights alone .*: resume from last\.ckpt"):
        train(ClassifyConfig.load(base=last["involution"]["recipe"]), progress=False, resume=whole.best)


def test_rotation(tmp_path):
    last = tmp_path / "last.ckpt"
    for number in range(5):
        (tmp_path / "new").write_text(str(number))
        rotate(last, 3)
        os.replace(tmp_path / "new", last)
    names = ["last.ckpt", "last.1.ckpt", "last.2.ckpt"]
    assert [(file.name, file.read_text()) for file in kept(tmp_path)] == list(zip(names, "432", strict=True))
    rotate(last, 1)
    assert [file.name for file in kept(tmp_path)] == ["last.ckpt"]


def test_rotation_where_a_file_has_one_name(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", no_links)
    test_rotation(tmp_path)


def test_what_a_killed_process_left_is_cleared(make_config):
    config = make_config(**{"trainer.epochs": 1})
    config.run_dir.mkdir()
    for name in (".last.ckpt.4242.tmp", ".best.ckpt.1.tmp", ".lock"):
        (config.run_dir / name).write_text("half")
    train(config, progress=False)
    assert [file.name for file in config.run_dir.glob(".*")] == [RECORD]


def test_a_run_that_was_killed_at_its_first_file_starts_over(make_config):
    config = make_config(**{"trainer.epochs": 1})
    make_folder(config)
    (config.run_dir / "data.json").write_text("{}")
    with pytest.raises(ConfigError, match="already has files"):
        train(config, progress=False)
    left_by(config.run_dir, host=platform.node(), boot="another")
    assert len(train(config, progress=False).history) == 1


def test_two_runs_in_one_folder(make_config, monkeypatch):
    config = make_config(**{"trainer.epochs": 1})
    with FolderLock(make_folder(config)), pytest.raises(FolderInUse, match=r"is in use: process \d+ on .* trains"):
        train(config, progress=False)
    result = train(config, progress=False)
    with FolderLock(config.run_dir), pytest.raises(FolderInUse, match="choose another --name"):
        train(make_config(**{"trainer.epochs": 2}), progress=False, resume=result.last)
    assert not (config.run_dir / ".lock").exists()


def make_folder(config):
    config.run_dir.mkdir()
    return config.run_dir


HOLDER = """
import sys, time
from pathlib import Path
from involution.engine.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("locks", [True, False], ids=["with the system's locks", "without"])
def test_another_process_keeps_its_folder_until_it_dies(tmp_path, monkeypatch, locks):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    if not locks:
        monkeypatch.setattr(folder_lock, "_lock", lambda number: None)
    with pytest.raises(FolderInUse, match=f"process {holder.pid} on"):
        FolderLock(tmp_path).__enter__()
    holder.kill()
    holder.communicate()
    assert (tmp_path / ".lock").is_file()
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def left_by(folder, **changes):
    owner = {"host": "elsewhere", "pid": 1, "boot": "x", "start": "1", **changes}
    (folder / ".lock").write_text(json.dumps(owner))
    return folder / ".lock"


def test_a_process_of_another_machine_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_lock, "BEAT", 0.1)
    monkeypatch.setattr(folder_lock, "PATIENCE", 1.0)
    file, over = left_by(tmp_path), threading.Event()

    def beat():
        while not over.wait(0.1):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(FolderInUse, match="process 1 on elsewhere"):
        FolderLock(tmp_path).__enter__()
    over.set()
    thread.join()
    start = time.monotonic()
    with FolderLock(tmp_path):
        # it dies
        assert 0.9 < time.monotonic() - start < 10
    assert "waiting for a sign of life" in capsys.readouterr().err


def test_a_machine_that_was_started_anew(tmp_path):
    left_by(tmp_path, host=platform.node(), boot="another")
    with FolderLock(tmp_path):
        pass


def test_a_process_that_was_held_up_does_not_write(tmp_path):
    with FolderLock(tmp_path) as lock:
        lock.check()
        left_by(tmp_path)
        with pytest.raises(FolderInUse, match="process 1 on elsewhere"):
            lock.check()
    # it is the other's
    assert (tmp_path / ".lock").is_file()


def test_a_validation_figure_that_is_no_number(make_config, monkeypatch, capsys):
    figures = [float("nan"), 0.5, float("nan")]
    original = callbacks.RunRecorder.on_train_epoch_end

    def replaced(self, trainer, module):
        module.results["accuracy"] = figures[trainer.current_epoch]
        original(self, trainer, module)

    monkeypatch.setattr(callbacks.RunRecorder, "on_train_epoch_end", replaced)
    result = train(make_config(**{"trainer.epochs": 3}), progress=False)
    assert (result.score, result.best.name) == (0.5, "best.ckpt")
    assert contents(result.best)["involution"]["position"] == [2, 0]
    none = train(make_config("none", **{"trainer.epochs": 1}), progress=False)
    assert none.best == none.last
    assert none.score != none.score
