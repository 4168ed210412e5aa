"""What the server does with requests that no page of it makes."""

import io
import itertools
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from app_checkpoints import uploaded
from app_server import serve
from PIL import Image

from involution.app import limits
from involution.app.checkpoints import Checkpoint, find_checkpoints
from involution.app.server import delete_old

SESSIONS = itertools.count()


@pytest.fixture(scope="module")
def url(home):
    with serve(home) as server:
        yield server.url


@pytest.fixture
def offered(home, monkeypatch):
    monkeypatch.chdir(home)
    return find_checkpoints([])


def ask(url, body=None, kind="application/json"):
    request = urllib.request.Request(url, body, {"Content-Type": kind} if body else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def function_of(url, name, trigger):
    """The number of what happens at an event of a component with an id."""
    config = json.loads(ask(f"{url}config"))
    (component,) = [item["id"] for item in config["components"] if item["props"].get("elem_id") == name]
    return next(item["id"] for item in config["dependencies"] if [component, trigger] in item["targets"])


def join(url, function, data, session=None):
    session = session or f"session{next(SESSIONS)}"
    body = {"data": data, "fn_index": function, "session_hash": session}
    ask(f"{url}gradio_api/queue/join", json.dumps(body).encode())
    return session


def outcome(url, session):
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=30) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    return None


def upload(url, name, content):
    boundary = "frontier"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return json.loads(ask(f"{url}gradio_api/upload", body, f"multipart/form-data; boundary={boundary}"))[0]


def test_files_of_this_machine_are_neither_read_nor_deleted(url, tmp_path):
    victim = tmp_path / "private.png"
    Image.new("L", (8, 8)).save(victim)
    inside = Path(upload(url, "mine.png", victim.read_bytes())).parent
    detour = f"{inside}/../../../../{victim}"
    read = function_of(url, "choose", "upload")
    for path in (victim, os.path.relpath(victim), detour):
        answer = outcome(url, join(url, read, [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]))
        assert not answer["success"]
        assert "base64" not in json.dumps(answer)
        assert victim.is_file()


def test_an_upload_is_read_once_and_gone(url):
    content = io.BytesIO()
    Image.new("L", (8, 8), 5).save(content, "PNG")
    path = Path(upload(url, "seven.png", content.getvalue()))
    assert path.is_file()
    read = function_of(url, "choose", "upload")
    answer = outcome(url, join(url, read, [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]))
    assert answer["success"]
    assert answer["output"]["data"][0]["url"].startswith("data:image/png")
    assert not path.parent.exists()


def test_oversize_uploads_end_at_the_limit(url):
    with pytest.raises(urllib.error.HTTPError, match="413"):
        upload(url, "large.png", bytes(limits.MAX_BYTES + 1))


def test_an_uploaded_page_is_never_served_as_one(url):
    path = upload(url, "page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    with urllib.request.urlopen(f"{url}gradio_api/file={path}") as answer:
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def form(contents):
    head = '--frontier\r\nContent-Disposition: form-data; name="files"; filename="{}.png"\r\n\r\n'
    parts = [head.format(number).encode() + content + b"\r\n" for number, content in enumerate(contents)]
    return b"".join([*parts, b"--frontier--\r\n"])


def status(url, body=None, **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, given), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_many_large_pictures_at_once_are_refused(url):
    kind = "multipart/form-data; boundary=frontier"
    large = bytes(limits.MAX_BYTES - 2**20)
    assert status(f"{url}gradio_api/upload", form([large]), Content_Type=kind) == 200
    assert status(f"{url}gradio_api/upload", form([large] * 6), Content_Type=kind) == 413


def test_a_foreign_name_or_page_gets_nothing(url):
    assert status(f"{url}config", Host="evil.com") == 421
    assert status(f"{url}config", Origin="http://evil.com") == 403
    assert status(f"{url}gradio_api/upload", form([b"x"]), Origin="http://evil.com") == 403
    assert status(f"{url}config", Origin=url.rstrip("/")) == 200
    for path in ("openapi.json", "docs", "gradio_api/openapi.json", "gradio_api/info", "monitoring"):
        assert status(url + path) == 404


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://localhost:3000", None])
def test_what_another_page_asks_beforehand_is_not_granted(url, origin):
    headers = {"Access-Control-Request-Method": "POST"} | ({"Origin": origin} if origin else {})
    for path in ("", "gradio_api/upload", "gradio_api/queue/join"):
        request = urllib.request.Request(url + path, headers=headers, method="OPTIONS")
        with pytest.raises(urllib.error.HTTPError, match="403" if origin else "404") as refused:
            urllib.request.urlopen(request, timeout=30)
        with refused.value as answer:
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_the_page_tells_nothing_of_this_machine(url, home):
    config = ask(f"{url}config")
    assert "demo/rednet" in config
    for told in (str(home), "best.ckpt", "runs/", str(Path.home()) + "/"):
        assert told not in config


def test_nonsense_is_one_line_in_the_log(home):
    with serve(home) as server:
        look = function_of(server.url, "look", "click")
        for data in ([None, float("nan"), float("inf"), "0", ""], [None, "x", [], {}, 7], [], [1] * 50):
            assert not outcome(server.url, join(server.url, look, data))["success"]
        assert (
            status(f"{server.url}gradio_api/queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "a"}') >= 400
        )
    assert "Traceback" not in server.printed
    lines = server.printed.splitlines()
    assert lines.pop() == "closed"
    assert len(lines) in range(4, 7)
    assert all(line.startswith("involution app: ") for line in lines)


SLOW = """
import os
import time
# Gradio, imported here before the server tells it a folder, would make one among the temporary files
os.environ["GRADIO_TEMP_DIR"] = "gradio"
import involution.app.page as page
page._predictions = lambda picture, chosen: time.sleep(0.4) or "answered"
"""


def test_a_queue_that_is_full_refuses(home, offered):
    with serve(home, SLOW) as server:
        answers, first = flood(server.url, "0")
    refused = [answer for answer in answers if "Queue is full" in answer]
    accepted = [answer for answer in answers if answer.startswith("flood")]
    assert len(accepted) + len(refused) == limits.QUEUE + 24
    assert refused
    assert len(accepted) >= limits.QUEUE
    assert first["output"]["data"] == ["answered"]


def flood(url, checkpoint):
    chosen = function_of(url, "second", "input")

    def ask_once(number):
        try:
            return join(url, chosen, [None, checkpoint, ""], f"flood{number}")
        except urllib.error.HTTPError as error:
            return error.read().decode()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_once, range(limits.QUEUE + 24)))
    return answers, outcome(url, next(answer for answer in answers if answer.startswith("flood")))


def test_a_request_ends_when_its_time_is_over(offered, monkeypatch):
    from involution.app import page

    monkeypatch.setattr(limits, "SECONDS", 0)
    image = uploaded(Image.new("L", (8, 8)))
    assert "stopped after 0 seconds" in page._predictions(image, offered[:1])
    assert "stopped after 0 seconds" in page._at_pixel(image, (1, 1), offered[0], None)[1]


def test_faults_of_the_program_are_not_told_as_the_users(offered, monkeypatch):
    from involution.app import page

    def broken(checkpoint, image):
        raise ValueError("a fault")

    monkeypatch.setattr(page, "predict", broken)
    with pytest.raises(ValueError, match="a fault"):
        page._predictions(uploaded(Image.new("L", (8, 8))), offered[:1])


def test_a_checkpoint_that_vanished_is_told(offered):
    from involution.app import page

    gone = Checkpoint(offered[0].path.with_name("gone.ckpt"), "classify", "rednet_nano", "", ("a",))
    assert "no such checkpoint" in page._predictions(uploaded(Image.new("L", (8, 8))), [gone])


def test_a_taken_port_is_told(home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = [sys.executable, "-m", "involution", "app", "--port", str(port)]
        ended = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"involution: can't listen on 127.0.0.1, port {port}: in use, or not this machine's address\n"
    )


def test_what_is_left_over_goes_after_a_while(tmp_path):
    old, new = tmp_path / "a/old.png", tmp_path / "b/new.png"
    for path in (old, new):
        path.parent.mkdir()
        path.touch()
    os.utime(old, (0, 0))
    os.utime(old.parent, (0, 0))
    delete_old(tmp_path, 60)
    assert not old.exists()
    assert new.is_file()
