"""What the server answers at all: the page's own requests, of bounded size and time, under the names it has."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from involution.app import limits
from involution.data.errors import printable
from involution.serve.hosts import host_name, is_own

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# the page can fetch from where it came, and nowhere else; Gradio has scripts and styles in the page itself
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
    (b"cross-origin-resource-policy", b"same-origin"),
]
_UPLOAD, _FILE = "/gradio_api/upload", "/gradio_api/file="
# all that the page asks for; the rest of Gradio (its interfaces for programs, proxy, file server) stays shut
_API = ("queue/data", "startup-events", "app_id", "upload_progress")
_GET = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", *(f"/gradio_api/{name}" for name in _API))
_GET_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_POST = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", _UPLOAD)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Refused(Exception):
    """A request that is not answered.

    Args:
        status: HTTP's.
        reason: For whoever sent it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware that refuses what no page of this server sends, and keeps the page to this server.

    - The name in the Host header is an address, localhost, or one of `own` and `names`: a foreign page whose name was
      made to lead here is not served.
    - A page of another origin can't ask for anything.
    - A body is no larger than a picture may be, and is there within `limits.BODY_SECONDS`; uploads that wait to be read
      are few.
    - A fault while answering is one line in the log.

    Args:
        app: What it wraps.
        own: This machine's names, besides its addresses and localhost.
        names: Of a proxy or the like, under which others reach the page.
        folder: Where uploads wait until they are read.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], own: Iterable[str], names: Iterable[str], folder: Path
    ) -> None:
        self.app = app
        self.own = frozenset(name.lower() for name in own)
        self.names = frozenset(name.lower() for name in names)
        self.folder = folder
        self.uploading = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        uploads = scope["path"] == _UPLOAD
        self.uploading += uploads
        try:
            self._check(scope)
            most = limits.MAX_BODY if uploads else limits.MAX_MESSAGE
            await self.app(scope, _bounded(receive, most) if scope["method"] == "POST" else receive, with_headers)
        except _Refused as refused:
            if refused.status == 413:
                await _drain(receive)
            if not started:
                await _answer(with_headers, refused.status, str(refused))
        except Exception as error:
            tell_fault(error)
            if not started:
                await _answer(with_headers, 500, "something went wrong")
        finally:
            self.uploading -= uploads

    def _check(self, scope: Message) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        host = headers.get("host", "")
        for name in (host, *filter(None, headers.get("x-forwarded-host", "").split(","))):
            if not self._is_ours(name):
                raise _Refused(421, f"not served under this name; start the page with --name {host_name(name)}")
        origin = headers.get("origin")
        other = origin is not None and not self._same(origin, host, headers.get("x-forwarded-host", host))
        elsewhere = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        # following a link to the page is all that others may do
        link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if other or (elsewhere and not link):
            raise _Refused(403, "only this page itself may ask for that")
        path, method = scope["path"], scope["method"]
        shown = path in _GET or path.startswith(_GET_BELOW) or self._is_upload(path)
        if not (path in _POST if method == "POST" else shown and method in ("GET", "HEAD")):
            raise _Refused(404, "nothing here")
        if path == _UPLOAD and (self.uploading > limits.UPLOADS or _size(self.folder) > limits.WAITING_BYTES):
            raise _Refused(503, "too many uploads at once; try again in a minute")

    def _is_upload(self, path: str) -> bool:
        """Whether it is the address of an upload, which the page shows until the server has read it."""
        if not path.startswith(_FILE) or "\0" in path:
            return False
        return Path(path.removeprefix(_FILE)).resolve().is_relative_to(self.folder.resolve())

    def _is_ours(self, name: str) -> bool:
        return is_own(host_name(name), self.own | self.names)

    def _same(self, origin: str, *hosts: str) -> bool:
        """Whether an origin is this page's: the host and port that were asked, or a name given by the user."""
        try:
            found = urlsplit(origin)
            port = found.port or _DEFAULT_PORTS.get(found.scheme)
            asked = [urlsplit(f"//{host}") for host in hosts]
            places = [(host.hostname, host.port or _DEFAULT_PORTS.get(found.scheme)) for host in asked]
        except ValueError:
            return False
        return found.scheme in _DEFAULT_PORTS and ((found.hostname, port) in places or found.hostname in self.names)


def _bounded(receive: Receive, most: int) -> Receive:
    """Let a body come in as far as it is allowed to; afterwards the connection may stay open."""
    end = time.monotonic() + limits.BODY_SECONDS
    got, complete = 0, False

    async def bounded() -> Message:
        nonlocal got, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0))
        except asyncio.TimeoutError as error:
            raise _Refused(408, f"not all there after {limits.BODY_SECONDS:g} seconds") from error
        got += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if got > most:
            raise _Refused(413, f"larger than {most / 2**20:.0f} MB")
        return message

    return bounded


async def _drain(receive: Receive) -> None:
    """Let the rest of a body pass by, so that its sender reads the answer, unless that takes long."""
    end, got = time.monotonic() + 10, 0
    with suppress(asyncio.TimeoutError):
        while got < limits.WAITING_BYTES and time.monotonic() < end:
            message = await asyncio.wait_for(receive(), 2)
            got += len(message.get("body", b""))
            if not message.get("more_body", False):
                break


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            # an empty file takes room, too
            total += path.stat().st_size + 4096
        except OSError:
            # read and deleted meanwhile
            continue
    return total


async def _answer(send: Send, status: int, text: str) -> None:
    body = printable(text).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def tell_fault(error: BaseException) -> None:
    """Print what went wrong while a request was answered, in one line, and where."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
    said = " ".join(str(error).split())[:300]
    print(printable(f"involution app: {type(error).__name__}: {said}{place}"), file=sys.stderr, flush=True)
