"""The command itself: what it prints, how it ends, and what it does when a worker dies."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from processes import descendants
from serve_networks import command, png

from involution.cli import main
from involution.serve import supervisor, worker
from involution.serve.settings import Settings

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def workers(process):
    found = descendants(process.pid) - {process.pid}
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in found}
    return [pid for pid, line in lines.items() if "spawn_main" in line]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def ready(address):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{address}/health/ready", timeout=5).status_code == 200


def test_a_worker_that_begins_with_another_file_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        supervisor._LOG, "warning", lambda event, extra: told.append((event, extra["fields"]["models"]))
    )
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"1")
    serving = supervisor.Supervisor(Settings((("digits", str(file)), ("photos", "rednet50"))), print)
    for content in (b"1", b"22"):
        # as a training does
        if file.read_bytes() != content:
            file.write_bytes(content)
        place = supervisor._Worker()
        place.process = SimpleNamespace(pid=7)
        place.told, tell = multiprocessing.Pipe(duplex=False)
        tell.send((supervisor.READY, ""))
        serving._hear(place)
        assert place.ready
    assert told == [("other networks", ["digits"])]


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, worker.HUNG)])
def test_a_worker_is_gone_as_soon_as_it_has_served(monkeypatch, good, code):
    monkeypatch.setattr("involution.serve.logs.set_up", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    monkeypatch.setattr(worker, "_load", lambda settings: None)
    monkeypatch.setattr(worker, "serve", lambda *given: good)
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    worker.work(Settings(()), None, None)
    assert codes == [code]


def test_what_libraries_warn_of_is_lines_of_json():
    code = """
import logging, warnings
from involution.serve.logs import set_up

set_up()
warnings.warn("odd\\nimage")
logging.getLogger("library").warning("odd body")
logging.getLogger("library").info("nothing")
# faults of clients, which their answers tell
logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
logging.getLogger("python_multipart.multipart").error("No boundary given")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image, body = map(json.loads, done.stderr.splitlines())
    assert image["level"] == body["level"] == "warning"
    assert "UserWarning: odd\nimage" in image["event"]
    assert body["event"] == "odd body"


@posix
def test_a_killed_worker_comes_back_and_sigterm_ends_in_good_order(checkpoints, tmp_path):
    with command(tmp_path, f"digits={checkpoints['classify']}", "--drain", "0.5") as running:
        assert running.names == "digits"
        before = httpx.post(f"{running.address}/predict", content=png())
        assert before.status_code == 200
        (first,) = workers(running.process)
        os.kill(first, signal.SIGKILL)
        # who asks meanwhile waits for the next one, or is told, and does not hang
        wait_for(lambda: ready(running.address))
        (second,) = workers(running.process)
        assert second != first
        # of which a library would log in a line of its own
        form = {"content-type": "multipart/form-data; boundary=a"}
        assert httpx.post(f"{running.address}/predict", content=b"x", headers=form).status_code == 400
        answers = []

        def ask():
            answers.append(httpx.post(f"{running.address}/predict", content=png(), timeout=30))

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert [one.status_code for one in answers] == [200] * 6
        session = httpx.Client(base_url=running.address)
        assert session.get("/health/ready").status_code == 200
        # what is being read when the signal comes is answered
        began, go_on, late = threading.Event(), threading.Event(), []

        def body():
            yield png()[:50]
            began.set()
            go_on.wait(10)
            yield png()[50:]

        sending = threading.Thread(target=lambda: late.append(httpx.post(f"{running.address}/predict", content=body())))
        sending.start()
        began.wait(10)
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: session.get("/health/ready").status_code == 503, 5)
        assert session.get("/health/live").status_code == 200
        go_on.set()
        sending.join(10)
        assert late[0].content == before.content
        session.close()
        assert running.process.wait(20) == 0
        lines = [json.loads(line) for line in running.lines]
        assert [line["reason"] for line in lines if line["event"] == "a worker ended"] == ["by SIGKILL"]
        assert sum(line["event"] == "ready" for line in lines) == 2
        assert str(checkpoints["classify"].parent) not in "".join(running.lines)


@posix
@pytest.mark.slow
def test_several_workers_count_together_and_end_with_their_supervisor(checkpoints, tmp_path):
    with command(tmp_path, checkpoints["classify"], "--workers", "2") as running:
        for _ in range(20):
            assert httpx.post(f"{running.address}/predict", content=png()).status_code == 200
        text = httpx.get(f"{running.address}/metrics").text
        assert 'involution_serve_requests_total{status="200"} 20.0' in text
        assert "involution_serve_active_requests 0.0" in text
        there = workers(running.process)
        assert len(there) == 2
        running.process.kill()
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in there), 20)


@pytest.mark.slow
def test_what_a_worker_can_not_load_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(b"no checkpoint")
    assert main(["serve", "a.ckpt", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("involution: a.ckpt is not a checkpoint: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.ckpt"], "no such file: none.ckpt"),
        (["rednet50", "--port", "99999"], "wanted a port from 0 to 65535, got 99999"),
        (["rednet50", "--host", "192.0.2.1"], "Cannot assign requested address; wanted an address of this machine"),
        (["rednet50", "--token-file", "none"], "none: No such file or directory"),
        (["a=rednet50", "a=rednet101"], "two networks would be named a"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert error[-1].startswith("involution: ")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
