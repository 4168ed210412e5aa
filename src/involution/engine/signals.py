"""Requests to stop a training: Ctrl-C, and what a scheduler sends before it takes the machine away."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from involution.engine.process import is_main_process

# Kubernetes and spot machines, a closed terminal, SLURM's --signal=USR1, ulimit -t; Windows lacks some of them
_ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)]
# a launcher may pass on what the terminal has already sent to everybody
_ONE_PRESS = 1.0


class StopFlag:
    """Inside the context, a signal only sets `raised`; a second Ctrl-C stops at once, unless a checkpoint is written.

    Attributes:
        raised: somebody asked for the end of the training.
        saving: a checkpoint is being written: every further signal waits.
    """

    def __init__(self) -> None:
        self.raised = False
        self.saving = False
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        # signals can only be caught in the main thread
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_ASKING):
                # nohup has SIGHUP ignored
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._catch)
        return self

    def listen(self) -> None:
        """Be the one that hears the signals, after a library has put its own handlers in place."""
        for number in self._previous:
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.raised:
            self.raised, self._first = True, now
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            # the message may meet the very stream that is being written to
            with suppress(RuntimeError):
                if is_main_process():
                    print(f"\nStopping after this step{again}.", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and not self.saving and now - self._first > _ONE_PRESS:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None: a handler that Python did not set
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
