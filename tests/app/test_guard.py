"""What the server refuses, asked without a server: the guard around an application that answers everything."""

import asyncio

import pytest

from involution.app import limits
from involution.app.guard import Guard, tell_fault

HOST = "127.0.0.1:7860"


async def answers(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


def ask(folder, method="GET", path="/", body=(b"",), app=answers, guard=None, **headers):
    """Return (status, text, headers) of the answer; a body is given in pieces, and a number in it is a pause."""
    given = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    pieces, sent = list(body), []

    async def receive():
        piece = pieces.pop(0) if pieces else b""
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            piece = b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    guard = guard or Guard(app, own=("Box",), names=("demo.example",), folder=folder)
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "host",
    [HOST, "localhost", "LOCALHOST.:1", "a.localhost:1", "[::1]:7860", "192.168.1.7", "box:7860", "demo.example"],
)
def test_names_of_this_machine(tmp_path, host):
    assert ask(tmp_path, host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.com", "evil.com:7860", "127.0.0.1.evil.com", "", "localhost.evil.com", "::1x"])
def test_other_names_are_refused(tmp_path, host):
    status, text, _ = ask(tmp_path, host=host)
    assert status == 421
    assert text.startswith("not served under this name; start the page with --name ")
    assert ask(tmp_path, x_forwarded_host=host or "x")[0] == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://{HOST}", 200),
        ("https://demo.example", 200),
        ("http://evil.com", 403),
        ("http://127.0.0.1:3000", 403),
        ("http://127.0.0.1", 403),
        ("null", 403),
        ("file://", 403),
        ("http://[", 403),
        (f"http://{HOST}.evil.com", 403),
    ],
)
def test_only_the_page_itself_asks(tmp_path, origin, status):
    for method, path in (("GET", "/config"), ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join")):
        assert ask(tmp_path, method, path, origin=origin)[0] == status


def test_a_link_may_lead_here_but_nothing_else(tmp_path):
    for site in ("cross-site", "same-site"):
        assert ask(tmp_path, sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
        assert ask(tmp_path, sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
        assert ask(tmp_path, "POST", "/gradio_api/upload", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 403
    for site in ("same-origin", "none"):
        assert ask(tmp_path, "POST", "/gradio_api/upload", sec_fetch_site=site)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/docs", "/openapi.json", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/proxy=http://a"),
        *("/gradio_api/file=/etc/passwd", "/gradio_api/run/predict", "/monitoring", "/gradio_api/vibe-code", "//"),
    ],
)
def test_the_rest_of_gradio_stays_shut(tmp_path, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        assert ask(tmp_path, method, path)[0] == 404
    # what can be seen can't be written to, and the other way round
    assert ask(tmp_path, "POST", "/config")[0] == 404
    assert ask(tmp_path, "GET", "/gradio_api/upload")[0] == 404


def test_of_files_only_uploads_are_shown(tmp_path):
    for path in (f"{tmp_path}/hash/a.png", f"{tmp_path}/a/../b.png"):
        assert ask(tmp_path, "GET", f"/gradio_api/file={path}")[0] == 200
    (tmp_path / "link").symlink_to("/etc")
    for path in ("/etc/passwd", f"{tmp_path}/../x", f"{tmp_path}x/a", f"{tmp_path}/link/passwd", "a", "http://a", "\0"):
        assert ask(tmp_path, "GET", f"/gradio_api/file={path}")[0] == 404


def test_every_answer_keeps_the_page_to_itself(tmp_path):
    for host in (HOST, "evil.com"):
        headers = ask(tmp_path, host=host)[2]
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"
    # what was sent is not sent back as it is
    assert "\x1b" not in ask(tmp_path, host="\x1b[2J")[1]


def test_a_body_is_bounded_in_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BODY", 2000)
    monkeypatch.setattr(limits, "MAX_MESSAGE", 1000)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    piece = bytes(500)
    assert ask(tmp_path, "POST", "/gradio_api/upload", [piece] * 4)[0] == 200
    assert ask(tmp_path, "POST", "/gradio_api/upload", [piece] * 5)[0] == 413
    assert ask(tmp_path, "POST", "/gradio_api/queue/join", [piece] * 2)[0] == 200
    assert ask(tmp_path, "POST", "/gradio_api/queue/join", [piece] * 3)[0] == 413
    assert ask(tmp_path, "POST", "/gradio_api/upload", [piece, 0.01, piece])[0] == 200
    assert ask(tmp_path, "POST", "/gradio_api/upload", [piece, 0.15, 0.15, piece])[0] == 408


def test_a_connection_that_waits_for_news_may_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.0)
    assert ask(tmp_path, "GET", "/gradio_api/queue/data", [0.05, b""])[0] == 200


def test_few_uploads_at_once_and_little_that_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "WAITING_BYTES", 10_000)
    assert ask(tmp_path, "POST", "/gradio_api/upload")[0] == 200
    (tmp_path / "a").write_bytes(bytes(10_000))
    status, text, _ = ask(tmp_path, "POST", "/gradio_api/upload")
    assert (status, text) == (503, "too many uploads at once; try again in a minute")
    (tmp_path / "a").unlink()
    guard = Guard(answers, (), (), tmp_path)
    guard.uploading = limits.UPLOADS
    assert ask(tmp_path, "POST", "/gradio_api/upload", guard=guard)[0] == 503
    assert ask(tmp_path, "GET", "/", guard=guard)[0] == 200
    guard.uploading -= 1
    assert ask(tmp_path, "POST", "/gradio_api/upload", guard=guard)[0] == 200
    # those that end, however they end, make room
    assert guard.uploading == limits.UPLOADS - 1


def test_a_fault_is_one_line_in_the_log(tmp_path, capsys):
    async def broken(scope, receive, send):
        raise RuntimeError("a\nfault \x1b[31m")

    assert ask(tmp_path, app=broken)[:2] == (500, "something went wrong")
    said = capsys.readouterr().err
    assert said.startswith("involution app: RuntimeError: a fault \\x1b[31m (test_guard.py, line ")
    assert said.count("\n") == 1
    tell_fault(ValueError("x" * 1000))
    assert len(capsys.readouterr().err) < 400
