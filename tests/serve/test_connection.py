"""Connections that are slow, half closed, broken or many: each comes to an end, and the others are answered."""

import contextlib
import json
import socket
import threading
import time

import pytest
from serve_networks import ask, listening, png, service, whole_answer

GET = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nhost: localhost\r\n"
LIMITS = {"timeout": 1.5, "head_timeout": 0.5, "drain": 0.0, "max_bytes": 100_000, "max_connections": 12}


@pytest.fixture(scope="module")
def served(predictors):
    return service({"a": predictors["classify"]}, **LIMITS)


@pytest.fixture(scope="module")
def port(served):
    with listening(served) as found:
        yield found


@contextlib.contextmanager
def connected(port, *parts):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


def errors(answer):
    """Status and kind of the last answer that a connection got."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    return int(head.rpartition(b"HTTP/1.1 ")[2][:3]), json.loads(body)["error"]


def is_well(port):
    with connected(port, GET) as connection:
        return b"200 OK" in connection.recv(4096)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"nonsense\r\n\r\n", (400, "http")),
        (b"\0" * 4000, (400, "http")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "http")),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", (400, "http")),
        (b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 40_000 + b"\r\n\r\n", (431, "header")),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 30_000, (431, "header")),
        (POST + b"content-length: -1\r\n\r\n", (400, "http")),
        (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", (400, "http")),
        (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc", (400, "http")),
        (POST + b"transfer-encoding: gzip\r\n\r\nabc", None),
        (POST + b"content-length: 99999999999999999999\r\n\r\nabc", (413, "bytes")),
        (POST + b"content-length: 100\r\n\r\nabc", (408, "slow")),
        (b"GET / HTTP/1.1\r\nhost: loc", (408, "slow")),
    ],
)
def test_what_is_no_request_is_told_and_ends(port, data, found):
    with connected(port, data) as connection:
        answer, seconds = whole_answer(connection)
    assert found is None or errors(answer) == found
    assert seconds < 9
    assert is_well(port)


def test_who_says_nothing_is_left(port):
    with connected(port) as connection:
        answer, seconds = whole_answer(connection)
    assert answer == b""
    assert 0.3 < seconds < 9


def test_a_header_that_drips_is_given_up_also_on_a_used_connection(port):
    with connected(port, GET) as connection:
        assert b"200 OK" in connection.recv(4096)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(whole_answer(connection)))
        thread.start()
        for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\nx: aaaaaaaaaaaaaaaaaaaaaaaa":
            with contextlib.suppress(OSError):
                connection.sendall(bytes([byte]))
            time.sleep(0.05)
        thread.join(15)
    ((answer, seconds),) = answers
    assert errors(answer) == (408, "slow")
    assert seconds < 9


def test_half_closed_connections_end(port):
    for data in (
        GET[:20],
        POST + b"content-length: 100\r\n\r\nabc",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    ):
        with connected(port, data) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert whole_answer(connection)[1] < 9
    assert is_well(port)


def test_chunks_without_end_are_answered_and_cut_off(port):
    chunk = b"8000\r\n" + b"\0" * 0x8000 + b"\r\n"
    with connected(port, POST + b"transfer-encoding: chunked\r\n\r\n") as connection:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(whole_answer(connection, 20)))
        thread.start()
        end = time.monotonic() + 15
        with contextlib.suppress(OSError):
            while thread.is_alive() and time.monotonic() < end:
                connection.sendall(chunk)
        thread.join(10)
    ((answer, _),) = answers
    assert errors(answer) == (413, "bytes")


def test_an_answer_that_nobody_reads_is_dropped(served, port):
    asked = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(0.5)
        end = time.monotonic() + 1
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                connection.sendall(asked * 50)
        deadline = time.monotonic() + 20
        # the buffers of the system are full, and it is broken off with what they hold
        while time.monotonic() < deadline:
            try:
                connection.sendall(asked)
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("it is still open")
    assert is_well(port)


def test_more_connections_than_are_taken_are_told(port):
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS["max_connections"]):
            stack.enter_context(connected(port))
        time.sleep(0.1)
        with connected(port, GET) as connection:
            answer, _ = whole_answer(connection)
    assert errors(answer) == (503, "busy")
    assert b"retry-after: 1" in answer
    deadline = time.monotonic() + 5
    while not is_well(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_well(port)


def test_requests_one_after_the_other_on_a_connection(port):
    body = png()
    whole = POST + b"content-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with connected(port, whole + whole + GET) as connection:
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < 3:
            part = connection.recv(65536)
            assert part, found
            found += part
    assert found.count(b'"task":"classify"') == 2


def test_an_upgrade_is_no_other_protocol(port):
    with connected(port, GET[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n") as connection:
        assert b"200 OK" in connection.recv(4096)


def test_nothing_is_left_behind(served, port):
    assert served.active == 0
    assert not len(served._batchers["a"])
    text = ask(served, "GET", "/metrics").text
    # whatever was done to it above, it has no faults of its own
    assert 'kind="fault"' not in text
    assert 'status="500"' not in text
