"""The servers that the suite `serving` compares: how each is started around the same exported file, asked and read."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from involution.engine.predictor import Encoded
from involution.studies.errors import StudyError

BATCH, WAIT = 16, 0.005
"""Images of a batch at most, and seconds that one waits for others; `involution serve` has them as defaults."""

_SECONDS = 60.0
# for a server to start: the libraries alone take a minute on a machine that is busy
_START = 300.0
_LOADED = """
import base64, os
from involution.engine.predictor import Encoded
from involution.export.load import load_exported
from involution.export.threads import use_threads

def load():
    use_threads(int(os.environ["THREADS"]))
    return load_exported(os.environ["NETWORK"], "onnx")

def decoded(text):
    return Encoded("image", base64.b64decode(text))

def rows(predictor, images):
    return [one.row() for one in predictor.stream(images, batch_size=len(images))]
"""
# the smallest servers of their documentations, around the same predictor
_LITSERVE = f"""{_LOADED}
import litserve

class Api(litserve.LitAPI):
    def setup(self, device):
        self.predictor = load()

    def decode_request(self, request):
        return decoded(request["image"])

    def batch(self, inputs):
        return inputs

    def predict(self, images):
        return rows(self.predictor, images)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output

if __name__ == "__main__":
    api = Api(max_batch_size={BATCH}, batch_timeout={WAIT}, enable_async=False)
    server = litserve.LitServer(api, accelerator="cpu", timeout={_SECONDS})
    port = int(os.environ["PORT"])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
"""
# how long an image waits is its own decision
_BENTOML = f"""{_LOADED}
import bentoml

@bentoml.service(workers=1, traffic={{"timeout": {_SECONDS}}})
class Api:
    def __init__(self):
        self.predictor = load()

    @bentoml.api(batchable=True, max_batch_size={BATCH})
    def predict(self, images: list[str]) -> list[dict]:
        return rows(self.predictor, [decoded(text) for text in images])
"""


@dataclass(frozen=True)
class Server:
    """A server that is measured.

    Attributes:
        name: Of its rows.
        package: That must be installed.
        words: Behind Python's name on the command line, with {file}, {folder}, {port} and {threads}.
        ready: The path that answers when it takes requests.
        kind: The content type of a request.
        body: Makes a request's body of an image file.
        labels: Finds the classes in an answer.
        script: A file server.py for it.
    """

    name: str
    package: str
    words: str
    ready: str
    kind: str
    body: Callable[[bytes], bytes]
    labels: Callable[[Any], list[str]]
    script: str = ""


def _json(image: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(image).decode()}).encode()


def _json_list(image: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode()]}).encode()


def _labels(answer: Mapping[str, Any]) -> list[str]:
    return [str(found["label"]) for found in answer["classes"]]


_OWN = "-m involution serve {file} --port {port} --threads {threads}"
SERVERS = {
    "involution": Server("involution serve", "uvicorn", _OWN, "health/ready", "image/jpeg", bytes, _labels),
    # as the other two want it
    "json": Server("involution serve, JSON", "uvicorn", _OWN, "health/ready", "application/json", _json, _labels),
    "litserve": Server(
        "LitServe",
        "litserve",
        "{folder}/server.py",
        "health",
        "application/json",
        _json,
        lambda answer: list(answer["labels"]),
        _LITSERVE,
    ),
    "bentoml": Server(
        "BentoML",
        "bentoml",
        "-m bentoml serve server:Api --working-dir {folder} --host 127.0.0.1 --port {port}",
        "readyz",
        "application/json",
        _json_list,
        lambda answer: list(answer[0]["labels"]),
        _BENTOML,
    ),
}
"""By the name of the suite's part."""


@contextmanager
def running(server: Server, folder: Path, file: Path, threads: int) -> Iterator[tuple[str, Any]]:
    """Start a server, and end it and all that it started.

    Args:
        server: Which.
        folder: For its files.
        file: A network that `involution export` wrote for ONNX Runtime.
        threads: That the network computes with.

    Yields:
        Its address for predictions, and its process.

    Raises:
        StudyError: If it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "server.py").write_text(server.script, encoding="utf-8")
    words = [word.format(file=file, folder=folder, port=port, threads=threads) for word in server.words.split()]
    environment = os.environ | {"NETWORK": str(file), "PORT": str(port), "THREADS": str(threads)}
    # BentoML's own: it would write into the home folder, and tell its makers
    environment |= {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            end = time.monotonic() + _START
            while not _answers(f"http://127.0.0.1:{port}/{server.ready}"):
                if process.poll() is not None or time.monotonic() > end:
                    said = (folder / "log").read_text(errors="replace").strip().splitlines() or ["?"]
                    raise StudyError(f"{server.name} does not start: {said[-1][:200]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/predict", process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # LitServe leaves processes of its own behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def check(server: Server, address: str, image: bytes, predictor: Any) -> None:
    """Raise `AssertionError` unless a server finds the classes that a predictor finds: it has the same network."""
    request = urllib.request.Request(address, server.body(image), {"content-type": server.kind})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        found = server.labels(json.load(answer))
    (result,) = predictor.stream([Encoded("image", image)], batch_size=1)
    assert found == result.row()["labels"], f"{server.name} finds other classes: {found}"
