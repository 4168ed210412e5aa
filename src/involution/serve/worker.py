"""A process that serves: it loads the networks, answers, and works off what is there when it is asked to end."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from involution.serve.service import Service
    from involution.serve.settings import Settings

READY, FAILED = "ready", "failed"
"""What a worker tells its supervisor, `FAILED` with the message."""

HUNG = 70
"""How a worker ends that can't go on."""

# of malloc.h
_M_MMAP_THRESHOLD = -3


def work(settings: Settings, listener: socket.socket, tell: Connection) -> None:
    """Be a worker.

    Args:
        settings: what is served and how.
        listener: a socket that is bound, and shared by all workers.
        tell: to the supervisor.
    """
    # a terminal sends Ctrl-C to all processes; the supervisor passes on what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _give_large_pieces_back()
    from involution.serve.logs import set_up

    set_up()
    try:
        service = _load(settings)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        tell.send((FAILED, " ".join(str(error).split())))
        return
    good = serve(settings, service, listener, lambda: tell.send((READY, "")))
    # Python would wait for what still computes, and take a second or more to take PyTorch apart
    os._exit(0 if good else HUNG)


def _load(settings: Settings) -> Service:
    from involution.serve.network import load_networks
    from involution.serve.service import Service

    return Service(settings, load_networks(settings))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _give_large_pieces_back() -> None:
    """Let glibc return large pieces of memory as they become free.

    By itself it soon keeps those of up to 32 MB, and images of many sizes leave ever more gaps between them.
    """
    if sys.platform == "linux":
        # other C libraries have no such function
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def serve(settings: Settings, service: Service, listener: socket.socket, ready: Any) -> bool:
    """Serve until SIGTERM, and then work off what is there; whether all of it came to an end.

    Args:
        settings: limits.
        service: the application.
        listener: a socket that is bound.
        ready: is called when connections are taken.
    """
    import uvicorn

    from involution.serve.protocol import connection
    from involution.serve.service import application

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = signal.signal(signal.SIGTERM, lambda *_: service.drain())
            try:
                yield
            finally:
                signal.signal(signal.SIGTERM, before)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def on_tick(self, counter: int) -> bool:
            if service.hung:
                os._exit(HUNG)
            over = time.monotonic() - service.ends
            self.should_exit = over > (settings.timeout if service.active else 0)
            return await super().on_tick(counter)

    config = uvicorn.Config(
        application(settings, service),
        http=connection(settings, service.metrics),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=max(1, round(settings.head_timeout / 2)),
        timeout_graceful_shutdown=max(1, round(settings.head_timeout)),
    )
    with suppress(KeyboardInterrupt):
        Server(config).run([listener])
    return service.close(settings.head_timeout)
