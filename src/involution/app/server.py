"""Serving the page: on this machine by default, with a temporary folder for uploads, and no requests to other hosts."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import limits
from .checkpoints import Checkpoint
from .errors import AppError

# the page may load from its own server only; Gradio has scripts and styles in the page itself
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
# an upload is read at once and then deleted; unused and incomplete ones are deleted after this many seconds
_LEFT_OVER = 60.0
_Message = MutableMapping[str, Any]


class Headers:
    """ASGI middleware that adds the headers restricting the page to this server.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        """Answer one request."""

        async def with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)


@contextmanager
def serving(offered: Sequence[Checkpoint], host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        offered: The checkpoints that can be chosen.
        host: Address to listen on.
        port: Port to listen on.

    Yields:
        The page's address.

    Raises:
        AppError: If it can't listen on that address and port.
    """
    with tempfile.TemporaryDirectory(prefix="involution-app-", ignore_cleanup_errors=True) as folder:
        # read when the page is built
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        import gradio as gr
        from starlette.middleware import Middleware

        from .page import build_page

        page, style = build_page(offered)
        fonts = ["system-ui", "sans-serif"]
        done = threading.Event()
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                inbrowser=False,
                max_file_size=limits.MAX_BYTES,
                theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
                css=style,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                state_session_capacity=64,
                app_kwargs={"middleware": [Middleware(Headers)], "docs_url": None, "redoc_url": None},
            )
        except OSError as error:
            raise AppError(f"can't listen on {host}, port {port}: in use, or not this machine's address") from error
        threading.Thread(target=_sweep, args=(Path(folder), done), daemon=True).start()
        try:
            yield address
        finally:
            done.set()
            page.close(verbose=False)


def _sweep(folder: Path, done: threading.Event) -> None:
    while not done.wait(_LEFT_OVER / 6):
        delete_old(folder, _LEFT_OVER)


def delete_old(folder: Path, age: float) -> None:
    """Delete everything inside a folder that has not been written to for some seconds."""
    oldest = time.time() - age
    # the contents of a folder come before the folder
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):
            # already deleted, or a folder with something new in it
            if path.stat().st_mtime < oldest:
                path.rmdir() if path.is_dir() else path.unlink()
