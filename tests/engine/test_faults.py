"""What goes wrong in the midst of a training: one line, exit code 1, and nothing good is lost."""

import errno
import os
import resource
import signal
import time

import pytest
import torch
from generated import image_folder
from torch import nn

from involution.cli import main
from involution.engine import RunFailed, TrainingDiverged, divergence, evaluate, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.config import ConfigError
from involution.engine.faults import CannotWrite
from involution.engine.interval import Interval, interval
from involution.engine.tasks.classify.module import ClassificationTask


def contents(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def at_step(monkeypatch):
    """Do something before the n-th training step."""

    def arm(number, action):
        original, calls = ClassificationTask.training_step, []

        def wrapped(self, batch, batch_idx):
            calls.append(1)
            if len(calls) == number:
                action(self, batch)
            return original(self, batch, batch_idx)

        monkeypatch.setattr(ClassificationTask, "training_step", wrapped)

    return arm


class Broken(nn.Module):
    """A layer that once divides zero by zero."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * torch.nan


def break_layer(module, batch):
    module.model.layer2[0].conv1 = Broken(module.model.layer2[0].conv1)


def test_the_layer_where_it_began_is_named_and_the_file_stays(make_config, at_step):
    config = make_config()
    at_step(6, break_layer)
    with pytest.raises(
        TrainingDiverged, match=r"the loss became nan in epoch 2, step 2: the first layer whose"
    ) as told:
        train(config, progress=False)
    assert "is layer2.0.conv1 (Broken); lower optimizer.lr" in str(told.value)
    assert f"saved before: {config.run_dir}/last.ckpt after 1 epoch, best.ckpt of epoch 1" in str(told.value)
    assert contents(config.run_dir / "last.ckpt")["involution"]["position"] == [1, 0]


def test_weights_that_are_not_finite_are_not_saved(make_config, at_step):
    def spoil(module, batch):
        # where no gradient shows it
        module.model.layer1[0].bn1.running_var[0] = torch.inf
        signal.raise_signal(signal.SIGTERM)

    config = make_config()
    at_step(6, spoil)
    with pytest.raises(TrainingDiverged, match=r"the weights are not finite any more \(layer1\.0\.bn1\.running_var\)"):
        train(config, progress=False)
    assert contents(config.run_dir / "last.ckpt")["involution"]["position"] == [1, 0]


def test_gradients_without_a_finite_square_end_the_training_instead_of_its_resumption(make_config, at_step):
    """As oneDNN's gradients in bfloat16 can be: the optimiser would keep infinity, which no run is resumed from."""
    at_step(6, lambda module, batch: module.model.fc.weight.register_hook(lambda gradient: gradient * 1e25))
    config = make_config()
    with pytest.raises(TrainingDiverged, match=r"not below 1e\+18 in epoch 2, step 2: .* gradient of fc\.weight"):
        train(config, progress=False)
    assert len(train(make_config(trainer__epochs=3), progress=False, resume="auto").history) == 3


def test_an_image_that_is_not_finite_is_named(make_config, at_step):
    at_step(2, lambda module, batch: batch[0][3].fill_(torch.nan))
    with pytest.raises(TrainingDiverged, match="step 2: an image of the batch has values that are not finite"):
        train(make_config(), progress=False)


def test_a_step_that_is_left_out(make_config, at_step, capsys):
    at_step(2, lambda module, batch: batch[0][3].fill_(torch.nan))
    result = train(make_config(trainer__on_nan="skip"), progress=False)
    assert len(result.history) == 2
    err = capsys.readouterr().err
    assert err == (
        "warning: the loss became nan in epoch 1, step 2: an image of the batch has values that are not finite; this "
        "step is left out\n"
    )
    assert 0 < result.history[0]["train_loss"] < 10
    evaluate(result.best)


def test_not_all_steps_are_left_out(make_config, at_step, monkeypatch):
    monkeypatch.setattr(divergence, "_MOST", 3)
    at_step(1, break_layer)
    with pytest.raises(TrainingDiverged, match="epoch 1, step 3"):
        train(make_config(trainer__on_nan="skip"), progress=False)


def test_a_full_disk_names_the_file_and_what_was_saved(make_config, at_step, capfd):
    config = make_config(trainer__epochs=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(6, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1])))
    try:
        with pytest.raises(
            CannotWrite, match=r"File too large; saved before: .*last\.ckpt after 1 epoch, best"
        ) as told:
            train(config, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(config.run_dir / "last.ckpt"))
    err = capfd.readouterr().err.splitlines()
    assert err == [f"warning: no more figures are logged: {config.run_dir}: File too large"]
    # there is room again
    whole = train(make_config("whole", trainer__epochs=3), progress=False)
    resumed = train(config, progress=False, resume="auto")
    assert [row["val_accuracy"] for row in resumed.history] == [row["val_accuracy"] for row in whole.history]


def test_a_disk_that_becomes_read_only(make_config, at_step, monkeypatch):
    def refuse(content, path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    config = make_config()
    with monkeypatch.context() as patch:
        at_step(6, lambda *_: patch.setattr(torch, "save", refuse))
        with pytest.raises(
            CannotWrite, match=r"Read-only file system; saved before: .*last\.ckpt after 1 epoch"
        ) as told:
            train(config, progress=False)
    assert (told.value.errno, told.value.filename) == (errno.EROFS, str(config.run_dir / "last.ckpt"))
    assert "\n" not in str(told.value)
    assert len(train(config, progress=False, resume="auto").history) == 2


def test_figures_alone_that_find_no_room_end_nothing(make_config, at_step, monkeypatch, capfd):
    from tensorboard.summary.writer import record_writer

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step(1, lambda *_: monkeypatch.setattr(record_writer.RecordWriter, "write", full))
    assert len(train(make_config(), progress=False).history) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "warning: no more figures are logged" in err


@pytest.mark.parametrize(("step", "position"), [(3, [0, 2]), (None, [0, 5])], ids=["in training", "in validation"])
def test_a_killed_loader_process_is_one_line_and_loses_nothing(make_config, monkeypatch, tmp_path, step, position):
    root = image_folder(tmp_path / "pictures", classes=("ant", "bee"), per_class=20)
    same = {"data.spec": f"imagefolder:{root}", "data.batch_size": 8, "trainer.epochs": 1}
    victim = root / ("val" if step is None else "train")
    from involution.data import folders

    read = folders.read_image

    def kill(file, **options):
        if victim in file.parents and torch.utils.data.get_worker_info():
            # when its parent has worked for a while
            time.sleep(0 if step is None else 0.05)
            if step is None or (tmp_path / "now").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        return read(file, **options)

    original = ClassificationTask.training_step
    calls = []

    def wrapped(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == 2 and step:
            (tmp_path / "now").touch()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(folders, "read_image", kill)
    monkeypatch.setattr(ClassificationTask, "training_step", wrapped)
    config = make_config(**same, **{"data.workers": 1})
    with pytest.raises(
        RunFailed, match=r"a loader process was killed, perhaps .*; saved before: .*last\.ckpt after 0"
    ) as told:
        train(config, progress=False)
    assert "\n" not in str(told.value)
    found = contents(config.run_dir / "last.ckpt")["involution"]["position"]
    assert found[0] == 0
    assert found == position or (step and 2 <= found[1] < 5)
    monkeypatch.setattr(folders, "read_image", read)
    resumed = train(config, progress=False, resume="auto")
    whole = train(make_config("whole", **same), progress=False)
    one, other = contents(whole.last)["state_dict"], contents(resumed.last)["state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def short_of_memory(limit):
    original = ClassificationTask.training_step

    def step(self, batch, batch_idx):
        if len(batch[1]) > limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 1 byte")
        return original(self, batch, batch_idx)

    return step


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (90, "for batches of 128 images: 90 fit, .* use --data.batch_size 180, or keep 256 .* --trainer.accumulate 4"),
        (0, "for batches of 128 images, not even for one: choose smaller images or networks"),
    ],
)
def test_the_largest_batch_that_fits(make_config, monkeypatch, limit, message):
    monkeypatch.setattr(ClassificationTask, "training_step", short_of_memory(limit))
    with pytest.raises(RunFailed, match=f"not enough memory {message}; nothing was saved before"):
        train(make_config(trainer__accumulate=2), progress=False)


def test_exit_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ClassificationTask, "training_step", short_of_memory(90))
    words = ["--output", str(tmp_path), "--model.name", "test_resnet", "--data.batch_size", "256"]
    assert main(["classify", "train", "--recipe", "digits", *words]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("involution: not enough memory for batches of ")


def test_checkpoints_within_an_epoch(make_config, at_step):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    whole = train(make_config("whole"), progress=False)
    config = make_config("parts", trainer__checkpoint_every=3)
    at_step(8, kill)
    with pytest.raises(Killed, match=r"^$"):
        train(config, progress=False)
    assert contents(config.run_dir / "last.ckpt")["involution"]["position"] == [1, 2]
    assert contents(config.run_dir / "last.1.ckpt")["involution"]["position"] == [1, 0]
    resumed = train(config, progress=False, resume="auto")
    one, other = contents(whole.last), contents(resumed.last)
    for part in ("state_dict", "optimizer_states"):
        assert str(one[part]) == str(other[part])
    # by time
    config = make_config("timed", trainer__checkpoint_every="0.001s")
    at_step(4, lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted, match="interrupted"):
        train(config, progress=False)
    assert contents(config.run_dir / "last.1.ckpt")["involution"]["position"] == [0, 3]


def test_intervals():
    assert [interval(value) for value in (None, 5, "5", "90s", "10m", "1.5h")] == [
        Interval(),
        Interval(steps=5),
        Interval(steps=5),
        Interval(seconds=90),
        Interval(seconds=600),
        Interval(seconds=5400),
    ]
    for wrong in (0, "0", "-5", "0m", "m", "10 m", "10min", ""):
        with pytest.raises(ConfigError, match=r"checkpoint_every must be a number of steps, or a time such as 10m"):
            interval(wrong)
