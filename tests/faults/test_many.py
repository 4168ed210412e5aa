"""The long versions of the tests of faults: `make test-faults`.

Each training is a forked process, so that it can be killed at any instant; what goes on from it must end with the
weights, the optimiser's state and the best checkpoint of a run that nothing happened to.
"""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback

import pytest
import torch
from engine_runs import FAST

from involution.engine import train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.faults import CannotWrite
from involution.engine.files import RECORD
from involution.engine.run_folder import find_checkpoint, kept
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask
from involution.models import CheckpointError

pytestmark = pytest.mark.faults
CHANGES = {**FAST, "optimizer.lr": 0.003, "trainer.epochs": 3, "trainer.checkpoint_every": 3, "trainer.ema_decay": 0.9}
FINISHED, INTERRUPTED, NO_ROOM, OTHER = 0, 3, 4, 5


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def config(folder, **more):
    return ClassifyConfig.load("digits", {**CHANGES, "output": str(folder), "name": "run", **more})


def run(folder, before=lambda: None):
    """Start a run or go on with it in a process of its own; how it ended."""
    child = os.fork()
    if child == 0:
        code = OTHER
        try:
            before()
            train(config(folder), progress=False, resume="auto")
            code = FINISHED
        except TrainingInterrupted:
            code = INTERRUPTED
        except CannotWrite:
            code = NO_ROOM
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_as(whole, folder):
    for name, parts in {
        "last.ckpt": ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step"),
        "best.ckpt": ("state_dict", "split"),
    }.items():
        one, other = contents(whole / "run" / name), contents(folder / "run" / name)
        assert [part for part in parts if not same(one[part], other[part])] == [], name
        assert one["involution"]["position"] == other["involution"]["position"]
    assert len((folder / "run" / "metrics.csv").read_text().splitlines()) == 4
    assert [file.name for file in (folder / "run").glob(".*") if file.name != RECORD] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    assert run(folder) == FINISHED
    return folder, time.monotonic() - start


def at_any_time(seconds):
    """Be ended by the system within some time, whatever is being done."""

    def arm():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return arm


def at_a_write(number):
    """Be killed before or after the n-th thing that is done to a file."""

    def arm():
        left = [number]

        def aimed(original):
            def call(*args, **kwargs):
                for moment in range(2):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if moment == 0:
                        result = original(*args, **kwargs)
                return result

            return call

        for module, name in ((os, "replace"), (os, "link"), (os, "fsync"), (os, "unlink"), (torch, "save")):
            setattr(module, name, aimed(getattr(module, name)))

    return arm


def full_from_a_write(number, why):
    """Let every file that is written fail from the n-th thing on that is done to one."""

    def arm():
        left = [number]

        def failing(original):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] <= 0:
                    raise OSError(why, os.strerror(why))
                return original(*args, **kwargs)

            return call

        # names can be changed and taken away on a full disk
        also = ((os, "replace"), (os, "unlink")) if why == errno.EROFS else ()
        for module, name in ((os, "link"), (os, "fsync"), (shutil, "copyfile"), (torch, "save"), *also):
            setattr(module, name, failing(getattr(module, name)))

    return arm


# a run does 20 of the former things to its files, and with the latter 64
@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("why", "step", "last"), [(errno.ENOSPC, 4, 20), (errno.EROFS, 12, 64)], ids=["full", "read-only"]
)
def test_a_disk_that_fails_from_any_write_on(whole, tmp_path, why, step, last, first):
    for number in range(first * step // 4, last + 1, step):
        folder = tmp_path / str(number)
        assert run(folder, full_from_a_write(number, why)) in (NO_ROOM, FINISHED)
        assert run(folder) == FINISHED
        assert_as(whole[0], folder)


@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills(whole, tmp_path, seed):
    draw = random.Random(seed)
    for _ in range(5):
        harm = at_a_write(draw.randrange(1, 30)) if draw.random() < 0.5 else at_any_time(draw.uniform(0.1, whole[1]))
        code = run(tmp_path, harm)
        assert code in (FINISHED, -signal.SIGKILL, -signal.SIGALRM)
    assert run(tmp_path) == FINISHED
    assert_as(whole[0], tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("method", ["training_step", "validation_step"])
def test_every_signal_at_any_step(whole, tmp_path, number, method):
    draw = random.Random(f"{number}{method}")

    def arm():
        original, left = getattr(ClassificationTask, method), [draw.randrange(1, 4)]

        def step(self, *args):
            left[0] -= 1
            if left[0] == 0:
                # and again at once
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            return original(self, *args)

        setattr(ClassificationTask, method, step)

    for _ in range(3):
        code = run(tmp_path, arm)
        assert code in (INTERRUPTED, FINISHED)
    while run(tmp_path) != FINISHED:
        pass
    assert_as(whole[0], tmp_path)


@pytest.mark.parametrize("step", [1, 5, 9, 12])
@pytest.mark.parametrize("size", [0, 500, 5_000, 500_000, 1_000_000, 2_000_000, 4_000_000])
def test_no_room_for_any_file(whole, tmp_path, step, size):
    def arm():
        original, left = ClassificationTask.training_step, [step]

        def training_step(self, *args):
            left[0] -= 1
            if left[0] == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            return original(self, *args)

        ClassificationTask.training_step = training_step

    assert run(tmp_path, arm) in (NO_ROOM, FINISHED)
    assert run(tmp_path) == FINISHED
    assert_as(whole[0], tmp_path)


@pytest.mark.parametrize("megabytes", [1, 2, 3, 4, 6, 8, 10])
def test_a_disk_that_is_full(whole, tmp_path, megabytes):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert run(folder) in (NO_ROOM, FINISHED)
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        assert run(folder) == FINISHED
        assert_as(whole[0], folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_hundred_bit_flips(whole, tmp_path):
    draw = random.Random(0)
    files = kept(whole[0] / "run")
    good = {file.name: (file.read_bytes(), contents(file)) for file in files}
    assert list(good) == ["last.ckpt", "last.1.ckpt"]
    (tmp_path / "run").mkdir()
    for name, (data, _) in good.items():
        (tmp_path / "run" / name).write_bytes(data)
    last, before = good["last.ckpt"], good["last.1.ckpt"]
    fell_back = 0
    for _ in range(100):
        data = bytearray(last[0])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "run" / "last.ckpt").write_bytes(data)
        file, found, why = find_checkpoint(tmp_path / "run" / "last.ckpt")
        assert same(found, last[1] if not why else before[1])
        fell_back += bool(why)
    # the rest met bytes that mean nothing
    assert fell_back > 90
    assert run(tmp_path) == FINISHED
    assert_as(whole[0], tmp_path)
    for file in kept(tmp_path / "run"):
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        find_checkpoint(tmp_path / "run" / "last.ckpt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_first_of_two_devices_saves_too(tmp_path, number):
    words = [f"--{name}={value}" for name, value in {**FAST, "trainer.epochs": 30, "devices": 2}.items()]
    words += ["--output", str(tmp_path), "--name", "run", "--trainer.accelerator", "cpu"]
    command = [sys.executable, "-m", "involution", "classify", "train", "--recipe", "digits", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 240
    while not (tmp_path / "run" / "metrics.csv").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert f"resume with: involution classify train --resume {tmp_path}/run/last.ckpt" in err
    epoch, batch = contents(tmp_path / "run" / "last.ckpt")["involution"]["position"]
    assert (epoch, batch) >= (1, 0)
    assert "Traceback" not in err
