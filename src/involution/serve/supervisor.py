"""The process that the command is: it starts the workers, brings back those that end, and ends them all."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from involution.serve import logs
from involution.serve.errors import ServeError
from involution.serve.settings import COUNTERS, Settings
from involution.serve.worker import FAILED, HUNG, READY, work

_LOG = logging.getLogger("involution.serve")
# a worker that lives for less is brought back later each time, up to the longest pause
_SHORT_LIFE, _LONGEST_PAUSE = 10.0, 30.0
# what to do where it can't listen
_HINTS = {
    errno.EADDRINUSE: "; give another --port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "; wanted an address of this machine",
    errno.EACCES: "; give a --port of 1024 or more",
}


class _Worker:
    """A place for a process, and the process in it."""

    def __init__(self) -> None:
        self.process: Any = None
        self.told: Connection | None = None
        self.ready = False
        self.failures, self.start, self.again = 0, 0.0, 0.0


class Supervisor:
    """Serves until it is told to stop.

    Args:
        settings: what is served and how.
        ready: is called once, with the server's address, when all workers take requests.
    """

    def __init__(self, settings: Settings, ready: Callable[[str], None]) -> None:
        self._settings, self._tell = settings, ready
        self._workers = [_Worker() for _ in range(settings.workers)]
        self._context = multiprocessing.get_context("spawn")
        self._stopping = self._was_ready = False
        self._stamps = self._now()

    def _now(self) -> dict[str, tuple[int, int]]:
        """Size and time of each network's file; a published name may be none."""
        found = {}
        for name, path in self._settings.models:
            with suppress(OSError):
                file = os.stat(path)
                found[name] = (file.st_size, file.st_mtime_ns)
        return found

    def replaced(self) -> list[str]:
        """Names of the networks whose file is another than when the server began."""
        now = self._now()
        return [name for name, stamp in self._stamps.items() if now.get(name, stamp) != stamp]

    def stop(self) -> None:
        """Let the workers work off what is there, and end; may be called by a signal's handler."""
        self._stopping = True

    def run(self) -> bool:
        """Serve; whether all workers came to a good end.

        Raises:
            ServeError: if it can't listen, or a worker can't begin.
        """
        logs.set_up()
        with ExitStack() as stack:
            listener = _bound(self._settings.host, self._settings.port)
            stack.callback(listener.close)
            if self._settings.workers > 1:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="involution-serve-"))
                os.environ[COUNTERS] = folder
                stack.callback(os.environ.pop, COUNTERS, None)
            stack.callback(self._kill)
            address = _address(listener)
            while not self._stopping:
                self._start_missing(listener)
                self._look()
                if not self._was_ready and all(worker.ready for worker in self._workers):
                    self._was_ready = True
                    self._tell(address)
            # what connects now is not left waiting for nobody
            listener.close()
            return self._end()

    def _start_missing(self, listener: socket.socket) -> None:
        for worker in self._workers:
            if worker.process is None and time.monotonic() >= worker.again:
                worker.told, tell = self._context.Pipe(duplex=False)
                worker.process = self._context.Process(target=work, args=(self._settings, listener, tell), daemon=True)
                with _deaf_to_interrupts():
                    worker.process.start()
                tell.close()
                worker.ready, worker.start = False, time.monotonic()

    def _look(self) -> None:
        """Hear what workers tell, and of those that have ended."""
        there = [worker for worker in self._workers if worker.process is not None]
        pipes = [worker.told for worker in there if worker.told is not None]
        wait([*pipes, *(worker.process.sentinel for worker in there)], timeout=0.1)
        for worker in there:
            self._hear(worker)
            if not worker.process.is_alive():
                self._note_end(worker)

    def _hear(self, worker: _Worker) -> None:
        if worker.told is None or not worker.told.poll():
            return
        try:
            what, message = worker.told.recv()
        except EOFError:
            what, message = "", ""
        worker.told.close()
        worker.told = None
        if what == READY:
            worker.ready = True
            _LOG.info("ready", extra={"fields": {"worker": worker.process.pid}})
            if changed := self.replaced():
                why = "files were replaced since the server began; other workers may still answer by the former ones"
                fields = {"worker": worker.process.pid, "models": changed, "reason": why}
                _LOG.warning("other networks", extra={"fields": fields})
        if what == FAILED:
            if not self._was_ready:
                raise ServeError(message)
            _LOG.error("not begun", extra={"fields": {"worker": worker.process.pid, "reason": message}})

    def _note_end(self, worker: _Worker) -> None:
        code = worker.process.exitcode
        if not self._was_ready and not self._stopping:
            raise ServeError(f"a worker ended before it could begin ({_why(code)}); perhaps there is too little memory")
        lived = time.monotonic() - worker.start
        worker.failures = worker.failures + 1 if lived < _SHORT_LIFE else 0
        pause = min(_LONGEST_PAUSE, 2.0 ** (worker.failures - 1)) if worker.failures else 0.0
        fields = {"worker": worker.process.pid, "reason": _why(code), "again_in_seconds": pause}
        if not self._stopping:
            _LOG.error("a worker ended", extra={"fields": fields})
        if COUNTERS in os.environ:
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(worker.process.pid)
        worker.process.close()
        worker.process, worker.ready, worker.again = None, False, time.monotonic() + pause

    def _end(self) -> bool:
        settings, good = self._settings, True
        there = [worker.process for worker in self._workers if worker.process is not None]
        for process in there:
            process.terminate()
        end = time.monotonic() + settings.drain + settings.timeout + 3 * settings.head_timeout
        for process in there:
            process.join(max(0.0, end - time.monotonic()))
            # one that was not ready yet just ends
            good = good and process.exitcode in (0, -signal.SIGTERM)
        return good

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _why(code: int) -> str:
    if code == HUNG:
        return "a network did not come to an end"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a process that begins here ignore Ctrl-C from its first moment on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
        except OSError:
            made.close()
            raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise ServeError(f"can't listen on {host}, port {port}: {error.strerror or error}{hint}") from error
    return made


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
