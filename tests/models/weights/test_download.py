"""Downloads from a server on this machine that does what servers and networks do."""

import errno
import os
import time

import pytest
from loopback import redirect, send

from involution.models.errors import WeightsError
from involution.models.weights import download as downloads
from involution.models.weights.download import download

CONTENT = os.urandom(300_000)


@pytest.fixture
def get(server, tmp_path):
    def fetched(path="/file", most_bytes=1_000_000):
        download(f"{server.address}{path}", tmp_path / "file.part", most_bytes=most_bytes, title="file")
        return (tmp_path / "file.part").read_bytes()

    return fetched


def left(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file(server, get):
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT)
    assert get() == CONTENT
    assert len(server.asked) == 1


def test_a_slow_server_is_waited_for_and_a_silent_one_asked_again(server, get, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT, pause=0.06)
    assert get() == CONTENT
    assert len(server.asked) == 1

    def silent_at_first(handler, asked):
        send(handler, CONTENT, only=100_000 if len(asked) < 3 else None)
        time.sleep(0.5 if len(asked) < 3 else 0)

    server.answers["/silent"] = silent_at_first
    assert get("/silent") == CONTENT


def test_resumes_where_it_broke_off(server, get, tmp_path):
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT, only=100_000)
    assert get() == CONTENT
    assert [wanted for _, wanted, _ in server.asked] == [None, "bytes=100000-", "bytes=200000-"]
    # also in the next call
    (tmp_path / "file.part").write_bytes(CONTENT[:250_000])
    assert get() == CONTENT
    assert server.asked[-1] == ("/file", "bytes=250000-", '"a"')


def test_a_file_that_changed_meanwhile_starts_over(server, get):
    other = CONTENT[::-1]
    server.answers["/file"] = lambda handler, asked: (
        send(handler, CONTENT, only=100_000) if len(asked) == 1 else send(handler, other, tag='"b"')
    )
    assert get() == other


def test_a_server_that_can_not_resume(server, get):
    server.answers["/file"] = lambda handler, asked: send(
        handler, CONTENT, only=100_000 if len(asked) == 1 else None, tag=None
    )
    assert get() == CONTENT
    assert [wanted for _, wanted, _ in server.asked] == [None, None]


def test_gives_up_after_some_tries_and_keeps_what_came(server, get, tmp_path):
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT, only=0 if len(asked) > 1 else 100_000)
    message = r"broke off after 0\.1 of 0\.3 MB \(5 tries; the 0\.1 MB that came are kept for the next time\)"
    with pytest.raises(WeightsError, match=message):
        get()
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:100_000]


def test_a_length_that_is_wrong(server, get):
    # more than comes: the server has no more of it
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT, length=400_000, tag=None)
    with pytest.raises(WeightsError, match=r"broke off after 0\.3 of 0\.4 MB"):
        get()
    # less than comes
    server.answers["/less"] = lambda handler, asked: send(handler, CONTENT, length=1000)
    assert get("/less") == CONTENT[:1000]
    server.answers["/none"] = lambda handler, asked: send(handler, CONTENT, length=False)
    assert get("/none") == CONTENT


def test_too_large(server, get, tmp_path):
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT)
    with pytest.raises(WeightsError, match="is a file of 0 MB, wanted at most 0: refused"):
        get(most_bytes=200_000)
    server.answers["/endless"] = lambda handler, asked: send(handler, CONTENT, length=False)
    with pytest.raises(WeightsError, match="brings more bytes than it announced or may have"):
        get("/endless", most_bytes=200_000)
    assert left(tmp_path) == []


def test_redirects(server, get):
    server.answers |= {"/file": lambda handler, asked: send(handler, CONTENT), "/moved": redirect("/file")}
    assert get("/moved") == CONTENT
    for where in ("file:///etc/passwd", "ftp://127.0.0.1/file"):
        server.answers["/out"] = redirect(where)
        with pytest.raises(WeightsError, match=r"is not followed|not allowed"):
            get("/out")
    server.answers["/round"] = redirect("/round")
    with pytest.raises(WeightsError, match="answers 302"):
        get("/round")


def test_no_redirect_leaves_an_encrypted_connection():
    import urllib.request

    request = urllib.request.Request("https://example.org/file")
    with pytest.raises(WeightsError, match=r"leads to http://example\.org/file, which is not followed: wanted https"):
        downloads._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/file")


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_answers_that_are_errors(code, tries, server, get, tmp_path):
    server.answers["/file"] = lambda handler, asked: handler.send_error(code)
    with pytest.raises(WeightsError, match=f"/file answers {code}"):
        get()
    assert (len(server.asked), left(tmp_path)) == (tries, [])


def test_a_web_page_is_no_file(server, get, tmp_path):
    page = b"<!DOCTYPE html><title>Sign in to the network</title>"
    server.answers |= {
        "/login": lambda handler, asked: send(handler, page, kind="text/html; charset=utf-8"),
        "/file": redirect("/login"),
    }
    with pytest.raises(WeightsError, match=r"/file answers with a web page \(http.*/login\) in place of the file"):
        get()
    assert left(tmp_path) == []


def test_nobody_answers(tmp_path):
    with pytest.raises(WeightsError, match=r"no connection to 127\.0\.0\.1:9 \(Connection refused\)"):
        download("http://127.0.0.1:9/file", tmp_path / "file.part", most_bytes=1, title="file")
    with pytest.raises(WeightsError, match="wanted an address of http or https, got file:///etc/passwd"):
        download("file:///etc/passwd", tmp_path / "file.part", most_bytes=1, title="file")
    assert left(tmp_path) == []


def test_no_room(server, get, tmp_path, monkeypatch):
    server.answers["/file"] = lambda handler, asked: send(handler, CONTENT)
    usage = downloads.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: usage._replace(free=500_000))
    with pytest.raises(OSError, match="No space left on device, 1 MB are needed; TORCH_HOME chooses another") as told:
        get()
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert left(tmp_path) == []
