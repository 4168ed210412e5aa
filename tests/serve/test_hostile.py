"""Ten thousand requests that nobody should send: each is answered, none costs the others theirs, and nothing grows."""

import contextlib
import json
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from pictures import huge_png
from processes import descendants
from serve_networks import command, listening, png, problem, service

from involution.serve.answers import TASKS, Problem

schemathesis = pytest.importorskip("schemathesis")

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
LIMITS = {"timeout": 20.0, "head_timeout": 2.0, "drain": 0.0, "max_pixels": 100_000, "max_bytes": 200_000}
# 503 is too much to do; were it a fault, the counters would tell
ALLOWED = {200, 400, 404, 405, 408, 413, 415, 422, 431, 503}
GOOD = b"POST /predict?model=classify HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def port(predictors):
    with listening(service(predictors, **LIMITS)) as found:
        yield found


def client(port):
    """A client that keeps no connection: the server closes those that wait for a second."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers={"connection": "close"})


def check(response):
    assert response.status_code in ALLOWED, response.content
    if response.status_code >= 400:
        Problem.model_validate_json(response.content)
        problem(response)
        for private in (b"Traceback", b".py", b"0x", b"/home", b"/tmp"):
            assert private not in response.content


def generated(port, count):
    """Requests that are made from the description of the interface, right ones and wrong ones."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            share = count // 2 if operation.path == "/predict" else 10

            @settings(
                max_examples=share,
                deadline=None,
                database=None,
                derandomize=True,
                # what fails may take its whole time, and a smaller case says no more
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                response = case.call(timeout=30)
                document = schema.raw_schema["paths"][case.operation.path][case.method.lower()]
                assert str(response.status_code) in document["responses"] or response.status_code in (404, 405)
                assert response.status_code in ALLOWED, response.content
                assert b"Traceback" not in response.content

            # an operation without parameters can't be asked wrongly
            with contextlib.suppress(Unsatisfiable):
                ask()


def damaged(seed):
    """An image with some of its bytes changed, left out or doubled."""
    chance = random.Random(seed)
    content = bytearray(png(seed % 5, (chance.randint(1, 60), chance.randint(1, 60)), chance.choice(KINDS)))
    for _ in range(chance.randint(0, 6)):
        start = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[start] = chance.randrange(256)
            case 1:
                del content[start : start + chance.randint(1, 50)]
            case 2:
                content[start:start] = content[start : start + chance.randint(1, 50)]
            case _:
                content[start : start + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        content = content or bytearray(b"\0")
    return bytes(content)


def images(port, count):
    with client(port) as session, ThreadPoolExecutor(4) as threads:

        def ask(seed):
            content = huge_png() if seed % 100 == 0 else damaged(seed)
            # detection takes the longest
            model = "detect" if seed % 50 == 0 else ("classify", "segment")[seed % 2]
            check(session.post("/predict", params={"model": model}, content=content))

        list(threads.map(ask, range(count)))


def damaged_request(chance):
    """The bytes of a request that is cut off, and some of them changed."""
    content = bytearray(GOOD + b"content-length: 2000\r\n\r\n" + png())
    del content[chance.randint(1, len(content)) :]
    for _ in range(chance.randint(0, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return [bytes(content)]


def huge_header(chance):
    """A header of too many bytes or lines."""
    return [GOOD, *chance.choice(([b"x: " + b"a" * 100_000], [b"x: y\r\n"] * 2000)), b"\r\n\r\n"]


def endless_body(chance):
    """Chunks of a body that does not end until the server ends it."""
    return [GOOD + b"transfer-encoding: chunked\r\n\r\n", *[b"4000\r\n" + b"\0" * 0x4000 + b"\r\n"] * 500]


def dripping(chance):
    """A header or a body that comes byte by byte, more slowly than a header may."""
    words = chance.choice((GOOD, GOOD + b"content-length: 2000\r\n\r\n" + b"\0" * 10))
    return [words[:-10], *(bytes([byte]) for byte in words[-10:])]


def connections(port, count):
    """Bytes that are hardly HTTP, and connections that are left in the midst of anything."""

    def ask(seed):
        chance = random.Random(seed)
        # one in a hundred takes three seconds
        kind = (
            dripping if seed % 100 == 0 else huge_header if seed % 20 == 1 else endless_body if seed % 50 == 2 else None
        )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            for part in (kind or damaged_request)(chance):
                connection.sendall(part)
                if kind is dripping:
                    time.sleep(0.3)
            if chance.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            if kind or chance.random() < 0.1:
                answer = connection.recv(65536)
                assert not answer or int(answer.split()[1]) in {*ALLOWED, 403}

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(count)))


def hostile(port, counts):
    """Ask all of that; how many answers of each status there have been."""
    generated(port, counts[0])
    images(port, counts[1])
    connections(port, counts[2])
    # it is as well as before
    with client(port) as session:
        for task, model in TASKS.items():
            response = session.post("/predict", params={"model": task}, content=png())
            model.model_validate_json(response.content)
        # what the last connections left is given up in time
        end = time.monotonic() + 30
        while "involution_serve_active_requests 0.0" not in (text := session.get("/metrics").text):
            assert time.monotonic() < end, text
            time.sleep(0.1)
    assert 'kind="fault"' not in text
    found = re.findall(r'involution_serve_requests_total\{status="(\d+)"\} (\d+)', text)
    assert not {int(status) for status, _ in found if status >= "500"} - {503}
    return {int(status): int(times) for status, times in found}


def test_a_few_hundred_hostile_requests(port):
    hostile(port, (30, 150, 150))


def held(process):
    """Megabytes that a server's processes have in memory, and their threads."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in descendants(process.pid)]
    kilobytes, threads = (
        sum(int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts)
        for name in ("VmRSS", "Threads")
    )
    return kilobytes / 1e3, threads


@pytest.mark.slow
def test_ten_thousand_hostile_requests_and_no_growth(checkpoints, tmp_path):
    words = [f"{name}={path}" for name, path in checkpoints.items()]
    words += [word for name, limit in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(limit))]
    # apart from this process, in which the clients grow
    with command(tmp_path, *words) as running:
        port = int(running.address.rpartition(":")[2])
        hostile(port, (200, 900, 900))
        before, threads = held(running.process)
        statuses = hostile(port, (1500, 4000, 3000))
        after, threads_after = held(running.process)
        # libraries write what they think of an image in words of their own
        levels = {json.loads(line)["level"] for line in running.lines if line.startswith("{")}
    print(f"{before:.0f} MB after 2,000 requests, {after:.0f} MB in the end; by status: {statuses}")
    assert after < 1.02 * before
    assert threads_after <= threads + 8
    assert levels <= {"info", "warning"}


@given(content=st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_answered(port, content):
    response = httpx.post(f"http://127.0.0.1:{port}/predict?model=classify", content=content)
    check(response)
