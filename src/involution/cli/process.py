"""The process around a command: its standard streams, and Ctrl-C and what else asks it to end, at any moment."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from involution import interrupt

# Kubernetes and spot machines, a closed terminal, SLURM's --signal=USR1; Windows lacks some of them
_ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class Interrupts:
    """Hears Ctrl-C, also where the library that was just called turns it into another error or forgets it."""

    def __init__(self) -> None:
        self.heard = self.over = False
        self._process = os.getpid()

    def catch(self, number: int, frame: FrameType | None) -> None:
        """Be the handler of SIGINT, and of the signals that ask for the same."""
        if number != signal.SIGINT and os.getpid() != self._process:
            # a fork, such as a loader's process, ends as it always would
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self.heard = True
        if _importing(frame):
            # an exception in a library's C++ that is being set up can abort the process, or leave half a module
            interrupt.end()
        raise KeyboardInterrupt

    def forgotten(self, lost: Any) -> None:
        """Be `sys.unraisablehook`: what arrives in a callback, as those of imports, is raised again right after it."""
        if lost.exc_type is KeyboardInterrupt:
            threading.Timer(0.01, self._again).start()
        else:
            sys.__unraisablehook__(lost)

    def _again(self) -> None:
        if self.over:
            return
        if os.name == "posix":
            # the main thread itself, which may be waiting
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)


def _out_of_time(number: int, frame: FrameType | None) -> None:
    # soon the system ends the process itself
    with suppress(OSError):
        os.write(2, b"involution: the system allows no more processor time (ulimit -t)\n")
    os._exit(1)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def as_process() -> Iterator[Interrupts]:
    """Make a process that is nothing but the command: its streams can be written to, and Ctrl-C is always heard.

    SIGTERM, SIGHUP and SIGUSR1 are heard like Ctrl-C. Afterwards all of them end the process without a word.
    """
    _open_streams()
    interrupts = Interrupts()
    # a shell that starts it in the background has Ctrl-C ignored, and nohup SIGHUP
    heard = [number for number in (signal.SIGINT, *_ASKING) if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, interrupts.catch)
    if signal.SIGINT in heard:
        sys.unraisablehook = interrupts.forgotten
    # not where a shell or service has it ignored; Windows has no such limit
    if hasattr(signal, "SIGXCPU") and signal.getsignal(signal.SIGXCPU) is signal.SIG_DFL:
        signal.signal(signal.SIGXCPU, _out_of_time)
    try:
        yield interrupts
    finally:
        interrupts.over = True
        # Python would end by the signal where Ctrl-C met code in a string, as named tuples are; this makes it forget
        exec("")
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def _open_streams() -> None:
    """Put /dev/null where a stream is closed, so that no file takes its place, and let no character be unprintable."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False, encoding="utf-8")
    sys.stdout = _stream(1, sys.stdout, _Watched)
    sys.stderr = _stream(2, sys.stderr, _Lossy)


def _stream(number: int, before: Any, kind: type[io.FileIO]) -> io.TextIOWrapper:
    if before is not None and os.name != "posix":
        # a console is more than a file there
        before.reconfigure(errors="backslashreplace")
        return before
    buffer = io.BufferedWriter(kind(number, "w", closefd=False))
    return io.TextIOWrapper(
        buffer,
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",
        line_buffering=buffer.isatty() or number == 2,
        write_through=before.write_through if before else False,
    )


class _Watched(io.FileIO):
    """The output: what it refused is remembered."""

    failure: OSError | None = None

    def write(self, text: Any, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise


class _Lossy(io.FileIO):
    """The error output: work goes on where nobody hears of it."""

    def write(self, text: Any, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)


def end_output() -> OSError | None:
    """Write what was printed but is not yet out; returns why it can't be, and then drops it."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = getattr(raw, "failure", None)
    try:
        sys.stdout.flush()
    except OSError as error:
        failure = error
    if failure is not None:
        if isinstance(raw, _Watched):
            raw.failure = None
        # what is left in the buffer must not fail again at exit
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failure
