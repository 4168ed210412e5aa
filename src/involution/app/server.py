"""Serving the page: on this machine by default, with a temporary folder for uploads, and no requests to other hosts."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from involution.app import limits
from involution.app.checkpoints import Checkpoint
from involution.app.errors import AppError

# an upload is read at once and then deleted; unused and incomplete ones are deleted after this many seconds
_LEFT_OVER = 60.0


@contextmanager
def serving(
    offered: Sequence[Checkpoint], host: str = "127.0.0.1", port: int = 7860, names: Sequence[str] = ()
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        offered: The checkpoints that can be chosen.
        host: Address to listen on.
        port: Port to listen on.
        names: Under which the page may be asked for, besides addresses, localhost and this machine's own name.

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

        from involution.app.guard import Guard
        from involution.app.page import build_page
        from involution.explain.touch import touch_script

        _quiet_gradio()
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
                head=f"<script>{touch_script()}</script>",
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                state_session_capacity=64,
                app_kwargs={
                    "middleware": [
                        Middleware(Guard, own=(host, socket.gethostname()), names=names, folder=Path(folder))
                    ],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
            )
        except OSError as error:
            raise AppError(f"can't listen on {host}, port {port}: in use, or not this machine's address") from error
        threading.Thread(target=_sweep, args=(Path(folder), done), daemon=True).start()
        try:
            yield address
        finally:
            done.set()
            page.close(verbose=False)


def _quiet_gradio() -> None:
    """Let Gradio tell a fault in one line, as the guard does, and leave requests of other origins to the guard."""
    import gradio.queueing
    import gradio.routes

    from involution.app.guard import tell_fault

    def print_exc() -> None:
        error = sys.exc_info()[1]
        if error is not None:
            tell_fault(error)

    for module in (gradio.queueing, gradio.routes):
        module.traceback = SimpleNamespace(print_exc=print_exc)  # type: ignore[attr-defined]
    # it stands before the guard, and answers what other origins ask before they ask for something
    gradio.routes.CustomCORSMiddleware = lambda app, **_: app  # type: ignore[assignment,misc]


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
