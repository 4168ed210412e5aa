"""A run whose folder is at an address: the same bits as on a disk, whatever comes between."""

import io
import json
import platform

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from involution.data import addresses
from involution.data.addresses import path_of
from involution.engine import address_lock, evaluate, folder_lock, train
from involution.engine.address_lock import AddressLock
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.checkpoint import CheckpointError
from involution.engine.config import ConfigError
from involution.engine.faults import CannotWrite
from involution.engine.folder_lock import FolderInUse, process_record


def contents(file):
    return torch.load(io.BytesIO(file.read_bytes()), weights_only=True)


def weights(file):
    return list(contents(file)["state_dict"].values())


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.fixture
def away(make_config, memory):
    """Settings of a run at memory://runs/NAME, and of the same one on disk."""
    addresses.allow("memory://runs")
    return lambda name, **changes: make_config(name, output="memory://runs", **changes)


def test_a_run_at_an_address_is_the_run_on_a_disk(make_config, away, memory):
    here, there = train(make_config("one"), progress=False), train(away("one"), progress=False)
    assert (str(there.best), str(there.last)) == ("memory://runs/one/best.ckpt", "memory://runs/one/last.ckpt")
    assert same_weights(here.last, there.last)
    assert same_weights(here.best, there.best)
    names = {path.rpartition("/")[2] for path in memory.ls("/runs/one", detail=False)}
    assert names == {entry.name for entry in here.log_dir.iterdir()}
    rows = [file.read_text().splitlines() for file in (here.log_dir / "metrics.csv", there.log_dir / "metrics.csv")]
    assert [row.split(",")[:4] for row in rows[0]] == [row.split(",")[:4] for row in rows[1]]
    assert memory.glob("/runs/one/tensorboard/events*")
    assert evaluate(there.best, split="val").to_dict() == evaluate(here.best, split="val").to_dict()
    with pytest.raises(ConfigError, match=r"memory://runs/one already has a run; choose another --name"):
        train(away("one"), progress=False)


def test_interrupted_and_gone_on_with(away, press_ctrl_c):
    whole = train(away("whole"), progress=False)
    press_ctrl_c("training_step", 6)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(away("parts"), progress=False)
    assert str(stop.value.checkpoint) == "memory://runs/parts/last.ckpt"
    parts = train(away("parts"), progress=False, resume="auto")
    assert same_weights(whole.last, parts.last)
    assert len((parts.log_dir / "metrics.csv").read_text().splitlines()) == 3
    # by its name, too
    more = train(away("parts", **{"trainer.epochs": 3}), progress=False, resume="memory://runs/parts/last.ckpt")
    assert len(more.history) == 3


def test_a_checkpoint_that_does_not_arrive_leaves_the_one_before(away, monkeypatch, capsys):
    whole = train(away("whole"), progress=False)
    original, puts = MemoryFileSystem.put_file, []

    def failing(fs, source, path, **options):
        puts.append(path)
        if path == "/runs/parts/last.ckpt" and puts.count(path) > 1:
            raise TimeoutError("the storage does not answer")
        original(fs, source, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(
        CannotWrite, match=r"failed 4 times \(the storage does not answer\); saved before: .*1 epoch"
    ) as told:
        train(away("parts"), progress=False)
    assert told.value.filename == "memory://runs/parts/last.ckpt"
    assert contents(path_of("memory://runs/parts/last.ckpt"))["involution"]["position"] == [1, 0]
    monkeypatch.setattr(MemoryFileSystem, "put_file", original)
    assert same_weights(whole.last, train(away("parts"), progress=False, resume="auto").last)


def test_a_damaged_checkpoint_and_the_one_before(away, memory, capsys):
    whole = train(away("whole"), progress=False)
    result = train(away("parts"), progress=False)
    memory.pipe_file("/runs/parts/last.ckpt", memory.cat("/runs/parts/last.ckpt")[:2000])
    with pytest.raises(CheckpointError, match=r"^memory://runs/parts/last\.ckpt is damaged"):
        evaluate(result.last, split="val")
    assert same_weights(whole.last, train(away("parts"), progress=False, resume="auto").last)
    assert "going on from memory://runs/parts/last.1.ckpt (after 1 epoch)" in capsys.readouterr().err


def test_a_run_that_ended_before_its_first_checkpoint_starts_over(away, memory, capsys):
    train(away("run"), progress=False)
    for name in ("last.ckpt", "last.1.ckpt", "best.ckpt", "metrics.csv"):
        memory.rm_file(f"/runs/run/{name}")
    train(away("run"), progress=False, resume="auto")
    assert "memory://runs/run holds a run that ended before its first checkpoint" in capsys.readouterr().err
    memory.pipe_file("/runs/other/notes.txt", b"mine")
    with pytest.raises(ConfigError, match="memory://runs/other already has files"):
        train(away("other"), progress=False)


@pytest.fixture
def folder(memory, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.3)
    monkeypatch.setattr(address_lock, "BEAT", 0.05)
    monkeypatch.setattr(folder_lock, "BEAT", 0.05)
    addresses.allow("memory://runs")
    return path_of("memory://runs/x")


def sign(folder, **changes):
    (folder / ".lock").write_text(json.dumps({**process_record(), "token": "other", **changes}))


def test_one_run_at_a_time(folder):
    with AddressLock(folder):
        with pytest.raises(FolderInUse, match=r"memory://runs/x is in use: process \d+ on .* trains there"):
            AddressLock(folder).__enter__()
        beats = json.loads((folder / ".lock").read_text())["beats"]
    assert not (folder / ".lock").exists()
    assert beats >= 0
    with AddressLock(folder) as lock:
        lock.check()


def test_who_died_keeps_nobody_out(folder, capsys):
    # here, with the number of a living process
    sign(folder, start="1")
    with AddressLock(folder) as lock:
        lock.check()
    # on another machine, from which no sign of life comes
    sign(folder, host="elsewhere")
    with AddressLock(folder) as lock:
        lock.check()
    assert "memory://runs/x was in use by process" in capsys.readouterr().err


def test_a_living_process_of_another_machine_keeps_its_folder(folder, monkeypatch):
    with AddressLock(folder):
        monkeypatch.setattr(platform, "node", lambda: "elsewhere")
        with pytest.raises(FolderInUse, match="is in use"):
            AddressLock(folder).__enter__()


def test_of_two_that_began_together_the_first_writes_nothing_more(folder):
    with AddressLock(folder) as lock:
        sign(folder, pid=7)
        with pytest.raises(FolderInUse, match="process 7"):
            lock.check()
        # its own sign does not come back
        lock._over.wait(0.2)
        assert json.loads((folder / ".lock").read_text())["pid"] == 7
    assert (folder / ".lock").exists()


def test_checkpoints_in_parts_need_a_shared_file_system(away):
    with pytest.raises(ConfigError, match=r"fsdp writes checkpoints in parts, .* at an address \(memory://runs/x\)"):
        train(away("x", **{"trainer.strategy": "fsdp"}), progress=False)
