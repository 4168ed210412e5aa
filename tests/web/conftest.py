import os
import shutil
from pathlib import Path

import pytest
from app_checkpoints import save_runs
from app_server import serve

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.web)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with trained runs in it."""
    home = tmp_path_factory.mktemp("home")
    save_runs(home / "runs")
    return home


@pytest.fixture(scope="session")
def server(home):
    with serve(home) as server:
        yield server
    # nothing but its farewell: no warning, no traceback
    assert server.printed == "closed\n"


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
        page.on(
            "console",
            lambda message: wrong.append(f"{message.text} {message.location}") if message.type == "error" else None,
        )
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
