"""HTTP on a connection: uvicorn's, with limits for what comes before a request and after its answer."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

if TYPE_CHECKING:
    from involution.serve.metrics import Metrics
    from involution.serve.settings import Settings

_LOG = logging.getLogger("involution.serve")


class Connection(H11Protocol):
    """A connection that can't be held open for nothing.

    - No more than `max_connections` are open.
    - A header is there within `head_timeout` from its first byte, and the first one from the connection on.
    - An answer that is not read within `timeout` ends the connection.
    - What is not HTTP is told in a line, as every other mistake is.
    """

    settings: Settings
    metrics: Metrics
    _head: asyncio.TimerHandle | None = None
    _answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first header."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(503, "busy", "too many connections")
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        for timer in (self._head, self._answer):
            if timer is not None:
                timer.cancel()
        self._head = self._answer = None
        super().connection_lost(exc)
        # uvicorn lets go of it only where the client closed it in good order
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self.settings.head_timeout, self._late)

    def _late(self) -> None:
        self._head = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, "slow", "the header was not all there in time")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; called while the parser's error is handled."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(431, "header", f"more than {self.settings.max_header_bytes:,} bytes in the header")
        else:
            self._refuse(400, "http", "not a request in HTTP/1.1")

    def _refuse(self, status: int, kind: str, message: str) -> None:
        name = secrets.token_hex(8)
        self.metrics.requests.labels(str(status)).inc()
        self.metrics.errors.labels(kind).inc()
        _LOG.info("request", extra={"fields": {"request_id": name, "status": status, "error": kind}})
        # not in the midst of an answer
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": kind, "message": message, "request_id": name}).encode() + b"\n"
            lines = [f"HTTP/1.1 {status} {STATUS_PHRASES[status].decode()}", "content-type: application/json"]
            lines += [f"content-length: {len(body)}", f"x-request-id: {name}", "connection: close"]
            lines += ["retry-after: 1"] if status == 503 else []
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._close()

    def on_response_complete(self) -> None:
        """Give whoever asked a time to read the answer."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._close() if self.transport.is_closing() else self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close what nobody uses, also where an answer is not read."""
        super().timeout_keep_alive_handler()
        self._watch()

    def pause_writing(self) -> None:
        """Give whoever asked a time to read what they are sent."""
        super().pause_writing()
        self._watch()

    def _close(self) -> None:
        self.transport.close()
        self._watch()

    def _watch(self) -> None:
        """Break the connection off if there is still something to be sent after a while."""
        if self._answer is None:
            self._answer = self.loop.call_later(self.settings.timeout, self._unread)

    def _unread(self) -> None:
        self._answer = None
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            self.transport.abort()


def connection(settings: Settings, metrics: Metrics) -> type[Connection]:
    """The class of connections with these limits."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})
