"""What a server is asked for, and the limits that it keeps."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from involution.engine.settings import MOST
from involution.serve.errors import ServeError

RUNTIMES = ("auto", "torch", "aoti", "onnx", "openvino")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
COUNTERS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that prometheus_client finds the files of all workers by, set before a worker imports it."""

_SUFFIXES = (".ckpt", ".safetensors", ".pt2", ".onnx", ".xml")
_MOST_TOKEN_BYTES = 65536
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """A server; the limits are of each worker.

    Args:
        models: paths of checkpoints and exported files, and names of published weights, by the name they are served as.
        runtime: what runs them; `auto` takes what each file is for.
        device: where checkpoints run.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        names: under which others reach the server, besides addresses and localhost.
        origins: of web pages that may use it.
        tokens: SHA-256 of each token, one of which a request must bring; none are wanted if there are none.
        workers: processes.
        threads: of each worker; 0 shares the cores among them.
        batch_size: images that a network is given at a time, at most.
        batch_wait: milliseconds that an image waits for others at most.
        max_bytes: of an image file.
        max_pixels: of an image, and of all images of a batch.
        max_header_bytes: of a request.
        max_header_lines: of a request.
        max_connections: open at once.
        max_requests: images that are read, wait or are worked on at once.
        max_queue: images that wait for a network.
        timeout: seconds that a request may take, from its header to its answer, and then the reading of the answer.
        head_timeout: seconds that a header may take.
        drain: seconds between being asked to end and the end, in which no more requests are taken.
    """

    models: tuple[tuple[str, str], ...]
    runtime: str = "auto"
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8080
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    tokens: tuple[bytes, ...] = ()
    workers: int = 1
    threads: int = 0
    batch_size: int = 16
    batch_wait: float = 5.0
    max_bytes: int = 16 * 2**20
    max_pixels: int = 25_000_000
    max_header_bytes: int = 16 * 2**10
    max_header_lines: int = 64
    max_connections: int = 256
    max_requests: int = 96
    max_queue: int = 64
    timeout: float = 30.0
    head_timeout: float = 10.0
    drain: float = 1.0

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ServeError(f"wanted a runtime of {', '.join(RUNTIMES)}, got {self.runtime!r}")
        if not 0 <= self.port <= 65535:
            raise ServeError(f"wanted a port from 0 to 65535, got {self.port}")
        for field in fields(self):
            value, option = getattr(self, field.name), "--" + field.name.replace("_", "-")
            if field.name == "workers" and not 1 <= value <= 256:
                raise ServeError(f"wanted {option} from 1 to 256, got {value}")
            if (field.name.startswith("max_") or field.name == "batch_size") and not 1 <= value <= 2**40:
                raise ServeError(f"wanted {option} of 1 or more, got {value}")
            if field.name in ("timeout", "head_timeout") and not 0 < value <= MOST:
                raise ServeError(f"wanted {option} above 0, in seconds, got {value}")
            if field.name in ("batch_wait", "drain", "threads") and not 0 <= value <= MOST:
                raise ServeError(f"wanted {option} of 0 or more, got {value}")
        for origin in self.origins:
            found = urlsplit(origin)
            if found.scheme not in ("http", "https") or f"{found.scheme}://{found.netloc}" != origin or "*" in origin:
                raise ServeError(f"wanted --origin such as https://example.org, got {origin!r}")

    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def worker_threads(self) -> int:
        """How many threads each worker computes with."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.threads or max(1, cores // self.workers)


def name_models(words: list[str]) -> tuple[tuple[str, str], ...]:
    """Name and path of each word that is `NAME=PATH`, or a path, named for its file or the folder of its run.

    Example:
        >>> name_models(["rednet50", "large=rednet101"])
        (('rednet50', 'rednet50'), ('large', 'rednet101'))

    Raises:
        ServeError: for a file that is not there, and for a name that can't stand in an address, or is there twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or os.path.exists(word):
            place = Path(word)
            path = word
            # of a run the folder says which one it is
            of_run = place.name in ("best.ckpt", "last.ckpt")
            name = place.absolute().parent.name if of_run else place.stem if place.suffix in _SUFFIXES else place.name
        if not path or not _NAME.fullmatch(name):
            raise ServeError(f"wanted NAME=PATH with a name of up to 64 letters, digits, dots and dashes, got {word!r}")
        if Path(path).suffix in _SUFFIXES and not Path(path).is_file():
            raise ServeError(f"no such file: {path}")
        if name in found:
            raise ServeError(f"two networks would be named {name}; name them as NAME=PATH")
        found[name] = path
    return tuple(found.items())


def read_tokens(path: str) -> tuple[bytes, ...]:
    """SHA-256 of each token of a file, one on a line.

    Raises:
        ServeError: for a file that can't be read, and tokens that are short or not of printable ASCII.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_TOKEN_BYTES + 1)
    except OSError as error:
        raise ServeError(f"{path}: {error.strerror}") from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines or len(content) > _MOST_TOKEN_BYTES:
        raise ServeError(f"{path}: wanted a token on each line, of at most {_MOST_TOKEN_BYTES:,} bytes in all")
    for number, line in enumerate(lines, 1):
        if len(line) < _LEAST_TOKEN or not all(32 < byte < 127 for byte in line):
            raise ServeError(
                f"{path}: token {number} has fewer than {_LEAST_TOKEN} characters, or others than ASCII's; "
                "`openssl rand -hex 32` makes one"
            )
    return tuple(hashlib.sha256(line).digest() for line in lines)
