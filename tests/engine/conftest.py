import signal

import pytest
import torch
from engine_runs import FAST

from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums, and so the last bit, must not depend on the load of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_config(tmp_path):
    """Settings of a run of seconds below tmp_path: 4 steps an epoch on the digits."""

    def make(name="run", recipe="digits", **changes):
        overrides = {key.replace("__", "."): value for key, value in changes.items()}
        return ClassifyConfig.load(recipe, {**FAST, "output": str(tmp_path), "name": name, **overrides})

    return make


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Make the n-th call of a method of the training module press Ctrl-C, or send another signal."""

    def arm(method, call, number=signal.SIGINT):
        original = getattr(ClassificationTask, method)
        calls = []

        def wrapped(self, *args):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return original(self, *args)

        monkeypatch.setattr(ClassificationTask, method, wrapped)

    return arm
