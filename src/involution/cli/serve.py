"""Serve trained networks over HTTP: an image in, typed JSON out, of every task and in every runtime.

POST an image to /predict. Requests that come together are worked on together. It listens on this machine only unless
you set --host, and refuses what is too large, too slow or no image.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from dataclasses import fields
from typing import Any

from involution.data.errors import printable
from involution.extras import EXTRAS, require

examples = (
    "involution serve runs/photos/best.ckpt",
    "involution serve digits=best.onnx rednet50 --token-file tokens.txt",
)
# option of `Settings` -> its help
_LIMITS = {
    "batch_size": "images that a network is given at a time, at most",
    "batch_wait": "milliseconds that an image waits for others at most",
    "max_bytes": "bytes of an image file",
    "max_pixels": "pixels of an image",
    "max_header_bytes": "bytes of a request's header",
    "max_header_lines": "lines of a request's header",
    "max_connections": "open connections of a worker",
    "max_requests": "requests that a worker has in hand",
    "max_queue": "images that wait for a network of a worker",
    "timeout": "seconds for a request, from its header to its answer, and again for reading the answer",
    "head_timeout": "seconds for a request's header",
    "drain": "seconds between SIGTERM and the end, at least, in which it says that it is not ready",
}


def add_arguments(parser: Any) -> None:
    """Add the options of the server."""
    from involution.serve.settings import RUNTIMES, Settings

    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="best.ckpt of a run, what `involution export` wrote, or published weights by name; NAME=FILE names it",
    )
    parser.add_argument(
        "--runtime", default="auto", choices=list(RUNTIMES), help="what runs the networks; auto goes by the files"
    )
    parser.add_argument("--device", default="auto", help="of checkpoints: auto, cpu, cuda, cuda:1, mps, ...")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--name", nargs="+", metavar="NAME", help="names under which others reach it, such as a proxy's"
    )
    parser.add_argument("--token-file", metavar="FILE", help="of tokens, one a line; a request must bring one of them")
    parser.add_argument("--origin", nargs="+", metavar="ORIGIN", help="web pages that may use it: https://example.org")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with its own copy of the networks")
    parser.add_argument("--threads", type=int, default=0, help="of each worker; 0 shares the cores among the workers")
    group = parser.add_argument_group("batches and limits")
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, text in _LIMITS.items():
        default: Any = defaults[name]
        group.add_argument("--" + name.replace("_", "-"), type=type(default), default=default, help=text)


def run(args: Any) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    require(*EXTRAS["serve"].packages, extra="serve")
    from involution.serve.settings import Settings, name_models, read_tokens
    from involution.serve.supervisor import Supervisor

    settings = Settings(
        models=name_models(args.checkpoints),
        runtime=args.runtime,
        device=args.device,
        host=args.host,
        port=args.port,
        names=tuple(args.name or ()),
        origins=tuple(args.origin or ()),
        tokens=read_tokens(args.token_file) if args.token_file else (),
        workers=args.workers,
        threads=args.threads,
        **{name: args[name] for name in _LIMITS},
    )
    if args.token_file and os.name == "posix" and os.stat(args.token_file).st_mode & stat.S_IROTH:
        told = printable(args.token_file)
        print(f"{told}: every user of this machine can read the tokens; chmod o-r keeps others out", file=sys.stderr)
    if not settings.tokens and not settings.is_local():
        print("anybody who reaches this address can use it; --token-file keeps others out", file=sys.stderr)
    served = ", ".join(name for name, _ in settings.models)

    def tell(address: str) -> None:
        print(f"{address}  ({served}; Ctrl-C to stop)", flush=True)

    supervisor = Supervisor(settings, tell)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: supervisor.stop()) for number in numbers]
    try:
        return 0 if supervisor.run() else 1
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
