"""Serve a web page: predictions of trained checkpoints, and the kernels they generate at the pixel you click.

It offers the checkpoints and published weights you name, or else every best.ckpt below runs/, and listens on this
machine only unless you set --host. It needs no network connection and keeps no uploads.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from involution.extras import require

examples = ("involution app --checkpoint rednet50",)


def add_arguments(parser: Any) -> None:
    """Add the options of the page."""
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        help="checkpoints, or published weights by name, such as rednet50; by default every best.ckpt below runs/",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the whole network")
    parser.add_argument(
        "--name", nargs="+", metavar="NAME", help="names under which others reach the page, such as a proxy's"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")


def run(args: Any) -> int:
    """Serve until Ctrl-C."""
    require("gradio", "starlette", "timm", "sklearn", "matplotlib")
    from involution.app.checkpoints import find_checkpoints
    from involution.app.errors import AppError
    from involution.app.server import serving

    if not 1 <= args.port <= 65535:
        raise AppError(f"wanted a --port from 1 to 65535, got {args.port}")
    offered = find_checkpoints(args.checkpoint or [], tell=lambda line: print(line, file=sys.stderr))
    stop = threading.Event()
    # when a service manager ends it, it must not leave its upload folder behind either
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        with serving(offered, args.host, args.port, args.name or ()) as address:
            print(
                f"{address}  ({len(offered)} checkpoint{'s' if len(offered) > 1 else ''}; Ctrl-C to stop)", flush=True
            )
            stop.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    print("closed", flush=True)
    if sys.argv[1:2] == ["app"]:
        # Python would end the thread of a request that still computes within C++ code, and that would abort
        os._exit(0)
    return 0
