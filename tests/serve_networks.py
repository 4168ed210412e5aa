"""Servers for the tests: in this process, of small networks with weights that are no defaults."""

import asyncio
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
from pictures import picture

from involution.serve.network import Network
from involution.serve.service import Service, application
from involution.serve.settings import Settings
from involution.serve.worker import serve


def png(seed=0, size=(40, 30), kind="PNG"):
    file = io.BytesIO()
    picture(seed, size).save(file, kind)
    return file.getvalue()


class Slow:
    """A predictor that takes its time with images of a certain height, and counts batches."""

    def __init__(self, predictor):
        self._predictor, self.batches = predictor, []
        self.free = threading.Event()
        self.free.set()

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def stream(self, images, **options):
        images = list(images)
        self.batches.append(len(images))
        self.free.wait(20)
        return self._predictor.stream(images, **options)


def service(predictors, **changes):
    """A service of predictors by name."""
    settings = Settings(tuple((name, name) for name in predictors), **changes)
    networks = [Network(name, predictor, "torch", settings) for name, predictor in predictors.items()]
    return Service(settings, networks)


def talk(served, conversation, **client):
    """What a coroutine with a client of the service returns."""

    async def run():
        transport = httpx.ASGITransport(application(served.settings, served))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", **client) as session:
            return await conversation(session)

    return asyncio.run(run())


def ask(served, method, path, client=None, **request):
    """One answer."""
    return talk(served, lambda session: session.request(method, path, **request), **(client or {}))


def problem(response):
    """Status, kind and message of an answer that is an error, whose form is checked."""
    assert response.content.count(b"\n") == 1
    found = json.loads(response.content)
    assert set(found) == {"error", "message", "request_id"}
    assert found["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, found["error"], found["message"]


@contextlib.contextmanager
def listening(served):
    """The port of the service on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        ready = threading.Event()
        thread = threading.Thread(target=serve, args=(served.settings, served, listener, ready.set))
        thread.start()
        try:
            assert ready.wait(10)
            yield listener.getsockname()[1]
        finally:
            served.drain()
            thread.join(20)
            assert not thread.is_alive()


def whole_answer(connection, seconds=10):
    """All that comes until the other side closes, and how long that took."""
    connection.settimeout(seconds)
    start, found = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found, time.monotonic() - start


@contextlib.contextmanager
def command(folder, *words, start=(sys.executable, "-m", "involution"), **environment):
    """The command, when it takes requests: its address, process, and the lines of its log so far."""
    process = subprocess.Popen(
        [*start, "serve", *map(str, words), "--port", "0", "--threads", "1"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
    reader.start()
    try:
        printed = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)  \((.*); Ctrl-C to stop\)$", printed)
        assert found, (printed, lines)
        yield SimpleNamespace(address=found[1], names=found[2], process=process, lines=lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        reader.join(20)
        process.stdout.close()
        process.stderr.close()
