"""Processes that torchrun starts again after one of them has died."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from engine_runs import FAST
from processes import descendants, free_port

pytestmark = pytest.mark.faults


def start(folder, name):
    changes = {**FAST, "trainer.epochs": 6, "trainer.checkpoint_every": 2, "trainer.accelerator": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", name]
    command += ["-m", "involution", "classify", "train", "--recipe", "digits", "--resume", "auto"]
    command += [f"--{key}={value}" for key, value in changes.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [*command, "--output", str(folder), "--name", name], stderr=subprocess.PIPE, text=True, env=environment
    )


def state(folder, name):
    return torch.load(folder / name / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, "whole")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return state(folder, "whole")


def rank_of(pid):
    try:
        with open(f"/proc/{pid}/environ") as environment:
            found = [word[5:] for word in environment.read().split("\0") if word.startswith("RANK=")]
    except OSError:
        return None
    return int(found[0]) if found else None


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_start_again_after_one_is_killed(undisturbed, tmp_path, rank):
    process = start(tmp_path, "run")
    try:
        end = time.monotonic() + 240
        while not (tmp_path / "run" / "last.ckpt").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        (victim,) = [pid for pid in descendants(process.pid) if rank_of(pid) == rank]
        os.kill(victim, signal.SIGKILL)
        _, err = process.communicate(timeout=240)
    finally:
        for pid in descendants(process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, err
    assert f"local_rank: {rank} (pid: {victim})" in err
    found = state(tmp_path, "run")
    assert found.keys() == undisturbed.keys()
    assert [name for name in found if not torch.equal(found[name], undisturbed[name])] == []
