import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from app_checkpoints import save_runs

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.web)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The command itself, in a folder with trained runs; its temporary files go where the tests can look."""
    home = tmp_path_factory.mktemp("home")
    runs = save_runs(home / "runs")
    temporary = home / "tmp"
    temporary.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "involution", "app", "--port", str(port)]
    env = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port}/"), line + process.stdout.read()
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/", runs=runs, temporary=temporary)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    # nothing but its farewell: no warning, no traceback
    assert rest == "closed\n"
    assert process.returncode == 0
    assert not list(temporary.iterdir())


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium; `make test-web` installs it")
    # nothing but this machine has a name
    args = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*args, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, browser):
    """Open the page as a user of one's own would; in the end nothing may have gone elsewhere or wrong."""
    contexts, asked, wrong = [], [], []

    def open_page(**settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        page.locator("#kernels .stage").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert len(asked) > 10
    assert not elsewhere
    assert not wrong
