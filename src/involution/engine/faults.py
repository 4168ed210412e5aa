"""What can end a training that is no fault of its settings, and how it is told: in one line, with what was saved."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from involution.engine.process import tell

# of a logger: what writes
_WRITING = ("log_metrics", "log_hyperparams", "save", "finalize")


class RunFailed(RuntimeError):
    """A training or an evaluation that was rightly asked for can't go on."""


class TrainingDiverged(RunFailed):
    """The loss, a gradient or a weight has become NaN or infinite."""


class CannotWrite(OSError):
    """A file of a run can't be written; the message says what was saved before."""


def loader_killed(error: BaseException) -> str:
    """Why loader processes are gone, in words; empty if the error is another one."""
    text = " ".join(str(error).split())
    found = re.search(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (.*)", text)
    if not isinstance(error, RuntimeError) or not found:
        return ""
    if "shared memory" in text or "Bus error" in text:
        return "a loader process found no shared memory: enlarge /dev/shm, or lower --data.workers or --data.batch_size"
    return (
        "a loader process was killed, perhaps by the system for lack of memory: lower --data.workers or "
        "--data.batch_size"
    )


def lenient(logger: Any) -> Any:
    """A logger of Lightning that falls silent, after one line, where it can't write: a training is worth more.

    Args:
        logger: the logger, or False.
    """
    if not logger:
        return logger
    broken: list[OSError] = []

    def guarded(method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if broken:
                return None
            try:
                return method(*args, **kwargs)
            except (OSError, ValueError) as error:
                # Lightning's logger makes a complaint about the value of it
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError):
                    raise
                broken.append(cause)
                tell(f"warning: no more figures are logged: {cause.filename or logger.save_dir}: {cause.strerror}")
                return None

        return call

    for name in _WRITING:
        setattr(logger, name, guarded(getattr(logger, name)))
    return logger


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Show no traceback of TensorBoard's thread, whose error its next call raises again."""
    before = threading.excepthook

    def hook(args: Any) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
