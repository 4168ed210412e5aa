"""The server's answers: an ASGI application over the networks, which refuses in one line what it can't answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from involution.serve.batcher import Batcher, Full, Job
from involution.serve.errors import Gone, Refused, nearest_or_all
from involution.serve.hosts import host_name, is_own, is_same
from involution.serve.logs import told
from involution.serve.metrics import CONTENT_TYPE, Metrics
from involution.serve.openapi import describe
from involution.serve.request import Incoming, Message, Receive, Send

if TYPE_CHECKING:
    from involution.serve.network import Network
    from involution.serve.settings import Settings

_LOG = logging.getLogger("involution.serve")
_JSON = "application/json"
# without a token, so that whoever starts and stops the server can ask
_OPEN = ("/health/live", "/health/ready")
# not worth a line each
_ASKED_OFTEN = (*_OPEN, "/metrics")
# a batch that takes so many times as long as a request may has hung
_HUNG = 2.0
# what a client that has gone gets in the log, by nginx's custom
_GONE = 499


@dataclass
class _Reply:
    body: bytes
    status: int = 200
    kind: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)
    # for the log
    told: dict[str, Any] = field(default_factory=dict)


class Service:
    """The application.

    Args:
        settings: limits, names, tokens.
        networks: what is served.

    Attributes:
        active: predictions that are read, wait or are worked on.
        ends: when it may end, in seconds of `time.monotonic`; infinite unless it was asked to.
    """

    def __init__(self, settings: Settings, networks: Sequence[Network]) -> None:
        self.settings, self.networks = settings, {network.name: network for network in networks}
        self.metrics = Metrics()
        self.active, self.ends = 0, float("inf")
        self._names = frozenset(name.lower() for name in (*settings.names, settings.host))
        self._batchers = {
            network.name: Batcher(
                network.run,
                network.sizes,
                settings.batch_wait / 1000,
                settings.max_pixels,
                settings.max_queue,
                self.metrics.batches.labels(network.name).observe,
            )
            for network in networks
        }
        self._description = json.dumps(describe(settings, networks)).encode() + b"\n"
        # headers of images are read beside the loop; hostile ones take their time
        self._threads = ThreadPoolExecutor(2, "header")
        self._pages: dict[str, tuple[str, Callable[[], _Reply]]] = {
            "/health/live": ("GET", self._live),
            "/health/ready": ("GET", self._ready),
            "/metrics": ("GET", lambda: _Reply(self.metrics.text(), kind=CONTENT_TYPE)),
            "/openapi.json": ("GET", lambda: _Reply(self._description)),
        }

    @property
    def draining(self) -> bool:
        """Whether it was asked to end: what is there is worked off, and nothing more is taken."""
        return self.ends < float("inf")

    def drain(self) -> None:
        """Take nothing more."""
        if not self.draining:
            self.ends = time.monotonic() + self.settings.drain

    @property
    def hung(self) -> bool:
        """Whether a network has been at work for far longer than a request may take."""
        began = [batcher.working for batcher in self._batchers.values()]
        oldest = min((moment for moment in began if moment is not None), default=None)
        return oldest is not None and time.monotonic() - oldest > _HUNG * self.settings.timeout

    def close(self, seconds: float) -> bool:
        """End the threads; whether that took no longer than some seconds."""
        self._threads.shutdown(wait=False)
        ended = [batcher.close(seconds) for batcher in self._batchers.values()]
        return all(ended)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"not served: {scope['type']}")
        incoming = Incoming(scope, receive, self.settings.timeout)
        reply: _Reply | None = None
        status, kind = _GONE, ""
        try:
            try:
                reply = await self._reply(incoming)
            except Gone:
                return
            except Refused as refused:
                reply, kind = _problem(incoming, refused), refused.kind
            # a fault of the program: whoever asked can ask again, and the log says what it was
            except Exception as fault:
                _LOG.error("a fault", extra={"fields": {"request_id": incoming.id, "fault": told(fault)}})
                reply, kind = (
                    _problem(incoming, Refused(503, "fault", "something went wrong; the log says what")),
                    "fault",
                )
            status = reply.status
            await _send(incoming, reply, send, self.draining)
        finally:
            self._note(incoming, status, kind, reply.told if reply else {})

    def _note(self, incoming: Incoming, status: int, kind: str, fields: dict[str, Any]) -> None:
        self.metrics.requests.labels(str(status)).inc()
        if kind:
            self.metrics.errors.labels(kind).inc()
        if status == 200 and incoming.path in _ASKED_OFTEN:
            return
        line = {
            "request_id": incoming.id,
            "client": incoming.client,
            "method": incoming.method[:20],
            "path": incoming.path[:200],
            "status": status,
            "seconds": round(time.monotonic() - incoming.start, 6),
            **({"error": kind} if kind else {}),
            **fields,
        }
        _LOG.info("request", extra={"fields": line})

    async def _reply(self, incoming: Incoming) -> _Reply:
        self._admit(incoming)
        path, method = incoming.path, "GET" if incoming.method == "HEAD" else incoming.method
        wanted = "POST" if path == "/predict" else self._pages.get(path, ("", None))[0]
        if not wanted:
            raise Refused(404, "path", f"nothing here; there are /predict, {', '.join(self._pages)}")
        if method != wanted:
            allowed = {"allow": wanted if wanted == "POST" else "GET, HEAD"}
            raise Refused(405, "method", f"wanted {wanted} for {path}", allowed)
        return await self._predict(incoming) if wanted == "POST" else self._pages[path][1]()

    def _admit(self, incoming: Incoming) -> None:
        """Refuse what comes under another name, from a foreign page, without a token, or with too long a header."""
        headers, settings = incoming.headers, self.settings
        if incoming.lines > settings.max_header_lines:
            raise Refused(431, "header", f"more than {settings.max_header_lines} lines in the header")
        # the parser counts only what is not there at once
        if incoming.head > settings.max_header_bytes:
            raise Refused(431, "header", f"more than {settings.max_header_bytes:,} bytes in the header")
        host = headers.get("host", "")
        # programs that watch a server may leave it out; browsers don't
        if host and not is_own(host_name(host), self._names):
            raise Refused(403, "host", "not served under this name; start the server with --name for it")
        origin = headers.get("origin")
        if origin is not None and origin not in settings.origins and not is_same(origin, host):
            raise Refused(403, "origin", "not for pages of other origins; start the server with --origin for this one")
        if settings.tokens and incoming.path not in _OPEN:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            digest = hashlib.sha256(token.strip().encode("latin-1")).digest()
            # every one of them, in the same time whichever it is
            right = sum([hmac.compare_digest(digest, known) for known in settings.tokens])
            if scheme.lower() != "bearer" or not right:
                raise Refused(401, "token", "wanted Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

    def _live(self) -> _Reply:
        if self.hung:
            raise Refused(503, "hung", "a network does not come to an end")
        return _Reply(b'{"status": "live"}\n')

    def _ready(self) -> _Reply:
        if self.draining:
            raise Refused(503, "ending", "the server is about to end")
        served = {name: network.task for name, network in self.networks.items()}
        return _Reply(json.dumps({"status": "ready", "models": served}).encode() + b"\n")

    async def _predict(self, incoming: Incoming) -> _Reply:
        if self.draining:
            raise Refused(503, "ending", "the server is about to end")
        if self.active >= self.settings.max_requests:
            raise Refused(503, "busy", "too many requests at once")
        self.active += 1
        self.metrics.active.set(self.active)
        try:
            parameters = incoming.parameters()
            network = self._chosen(parameters.pop("model", None))
            options = network.read_options(parameters)
            image = await incoming.image(self.settings.max_bytes)
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads, network.pixels, image)
            return await self._wait(incoming, network, image, pixels, options)
        finally:
            self.active -= 1
            self.metrics.active.set(self.active)

    def _chosen(self, name: str | None) -> Network:
        if name is None and len(self.networks) == 1:
            return next(iter(self.networks.values()))
        if name is None:
            raise Refused(422, "option", f"wanted ?model= with one of {', '.join(self.networks)}")
        if name not in self.networks:
            raise Refused(404, "model", f"no network named {name[:64]!r}{nearest_or_all(name[:64], self.networks)}")
        return self.networks[name]

    async def _wait(
        self, incoming: Incoming, network: Network, image: bytes, pixels: int, options: dict[str, Any]
    ) -> _Reply:
        batcher = self._batchers[network.name]
        job = Job(image, pixels, options, asyncio.get_running_loop().create_future())
        try:
            batcher.put(job)
        except Full as full:
            raise Refused(503, "busy", "too many images wait for this network") from full
        waiting = self.metrics.waiting.labels(network.name)
        waiting.set(len(batcher))
        gone = asyncio.ensure_future(incoming.gone())
        try:
            left = max(incoming.end - time.monotonic(), 0)
            await asyncio.wait({job.outcome, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not job.outcome.done():
                batcher.drop(job)
                if gone.done():
                    raise Gone
                # an image that takes too long is told from one that waited too long
                stage = "run" if job.taken else "queue"
                fields = {"request_id": incoming.id, "model": network.name, "pixels": pixels, "stage": stage}
                _LOG.warning("late", extra={"fields": fields})
                raise Refused(
                    503, "late", "no answer in time; the server has too much to do, or the image is too large"
                )
            outcome = job.outcome.result()
        finally:
            gone.cancel()
            job.outcome.cancel()
            waiting.set(len(batcher))
        return self._finished(incoming, network, job, outcome)

    def _finished(self, incoming: Incoming, network: Network, job: Job, outcome: Any) -> _Reply:
        stages = {
            "read": job.since - incoming.start,
            "queue": job.taken - job.since,
            "run": job.done - job.taken,
            "whole": time.monotonic() - incoming.start,
        }
        for stage, seconds in stages.items():
            self.metrics.stages.labels(stage).observe(seconds)
        if isinstance(outcome, Refused):
            raise outcome
        fields = {"model": network.name, "bytes": incoming.size, "pixels": job.pixels, "batch": job.batch}
        fields |= {stage: round(seconds, 6) for stage, seconds in stages.items() if stage != "whole"}
        timing = ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stages.items() if stage != "whole")
        return _Reply(outcome, headers={"server-timing": timing}, told=fields)


def _problem(incoming: Incoming, refused: Refused) -> _Reply:
    body = {"error": refused.kind, "message": refused.message, "request_id": incoming.id}
    return _Reply(json.dumps(body).encode() + b"\n", refused.status, headers=refused.headers)


async def _send(incoming: Incoming, reply: _Reply, send: Send, last: bool) -> None:
    headers = {
        "content-type": reply.kind,
        "content-length": str(len(reply.body)),
        "x-request-id": incoming.id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **reply.headers,
    }
    # what is left of a body would be taken for the next request
    if incoming.more or last:
        headers["connection"] = "close"
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    if incoming.more:
        await send({"type": "http.response.body", "body": reply.body, "more_body": True})
        await incoming.drain()
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": reply.body})


def application(settings: Settings, service: Service) -> Any:
    """The application as it is served: with what pages of the given origins need, if there are any."""
    if not settings.origins:
        return service
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        service,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id"],
        expose_headers=["x-request-id", "server-timing", "retry-after"],
    )
