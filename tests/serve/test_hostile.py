"""Ten thousand requests that nobody should send: each is answered, none costs the others theirs, and nothing grows."""

import contextlib
import os
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import huge_png
from serve_networks import listening, png, problem, service

from involution.serve.answers import TASKS, Problem

schemathesis = pytest.importorskip("schemathesis")

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
# none of them is the server's fault
ALLOWED = {200, 400, 404, 405, 408, 413, 415, 422, 431}


@pytest.fixture(scope="module")
def served(predictors):
    return service(predictors, timeout=20.0, head_timeout=1.0, drain=0.0, max_pixels=100_000, max_bytes=200_000)


@pytest.fixture(scope="module")
def port(served):
    with listening(served) as found:
        yield found


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
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                response = case.call(timeout=30)
                document = schema.raw_schema["paths"][case.operation.path][case.method.lower()]
                assert str(response.status_code) in document["responses"] or response.status_code in (404, 405)
                if case.path == "/predict":
                    assert response.status_code in ALLOWED, response.content
                    assert b"Traceback" not in response.content

            # an operation without parameters can't be asked wrongly
            with contextlib.suppress(Exception) if operation.path != "/predict" else contextlib.nullcontext():
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
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as session,
        ThreadPoolExecutor(4) as threads,
    ):

        def ask(seed):
            content = huge_png() if seed % 100 == 0 else damaged(seed)
            # detection takes the longest
            model = "detect" if seed % 50 == 0 else ("classify", "segment")[seed % 2]
            check(session.post("/predict", params={"model": model}, content=content))

        list(threads.map(ask, range(count)))


def connections(port, count):
    """Bytes that are hardly HTTP, and connections that are left in the midst of anything."""
    good = b"POST /predict?model=classify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000\r\n\r\n" + png()

    def ask(seed):
        chance = random.Random(seed)
        content = bytearray(good[: chance.randint(1, len(good))])
        for _ in range(chance.randint(0, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(content)
            if chance.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            if chance.random() < 0.1:
                answer = connection.recv(65536)
                assert not answer or int(answer.split()[1]) in {*ALLOWED, 403}

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(count)))


def hostile(served, port, counts):
    before = threading.active_count()
    generated(port, counts[0])
    images(port, counts[1])
    connections(port, counts[2])
    # it is as well as before
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as session:
        for task, model in TASKS.items():
            response = session.post("/predict", params={"model": task}, content=png())
            model.model_validate_json(response.content)
        text = session.get("/metrics").text
    assert 'status="500"' not in text
    assert 'kind="fault"' not in text
    assert served.active <= 1
    assert threading.active_count() <= before + 8


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_few_hundred_hostile_requests(served, port):
    hostile(served, port, (30, 150, 150))


@pytest.mark.slow
def test_ten_thousand_hostile_requests_and_no_growth(served, port):
    hostile(served, port, (300, 500, 500))
    before = resident()
    hostile(served, port, (1500, 5500, 3000))
    after = resident()
    print(f"resident: {before / 1e6:.0f} MB after 1,300 requests, {after / 1e6:.0f} MB after 11,300")
    assert after < before + 100 * 2**20


@given(content=st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_answered(port, content):
    response = httpx.post(f"http://127.0.0.1:{port}/predict?model=classify", content=content)
    check(response)
