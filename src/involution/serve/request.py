"""A request as it comes: its header checked, its body read within limits, and the image in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from involution.serve.errors import Gone, Refused

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

FORMS = "multipart/form-data, application/json or the bytes of an image as application/octet-stream"
# beside an image in base64 or a form
_AROUND = 65536
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# what passes by unread after a refusal, so that whoever sends it reads the answer
_DRAINED_BYTES, _DRAINED_SECONDS, _DRAINED_PAUSE = 2**26, 5.0, 1.0


class Incoming:
    """A request.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        timeout: seconds from now until there must be an answer.
    """

    def __init__(self, scope: Message, receive: Receive, timeout: float) -> None:
        self.method, self.path = scope["method"], scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.client = (scope.get("client") or ("",))[0]
        self.lines = len(scope["headers"])
        # with a colon, a space and the end of a line for each
        self.head = len(scope.get("raw_path") or b"") + len(self.query) + 4 * self.lines
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            self.head += len(name) + len(value)
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        given = self.headers.get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.start = time.monotonic()
        self.end = self.start + timeout
        self.size = 0
        self._receive = receive
        # whether there is more of the body
        self.more = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    @property
    def kind(self) -> str:
        """Its content type without parameters."""
        return self.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()

    def parameters(self) -> dict[str, str]:
        """What stands behind the question mark; raises `Refused`."""
        try:
            pairs = (
                parse_qsl(
                    self.query.decode("ascii"),
                    keep_blank_values=True,
                    strict_parsing=True,
                    max_num_fields=16,
                    errors="strict",
                )
                if self.query
                else []
            )
        except ValueError as error:
            raise Refused(400, "query", "the part behind the question mark can't be read") from error
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Refused(400, "query", "a parameter is there twice")
        return found

    async def image(self, most: int) -> bytes:
        """The bytes of the image file in the body.

        Args:
            most: how many there may be.

        Raises:
            Refused: for a body of an unknown type, one that is too large, malformed or slow.
            Gone: if the client has.
        """
        kind = self.kind
        if "content-encoding" in self.headers and self.headers["content-encoding"].lower() != "identity":
            raise Refused(415, "type", "a body can't be compressed; images are already")
        if kind == "application/json":
            found = await asyncio.to_thread(_from_json, await self._body(most * 4 // 3 + _AROUND))
        elif kind == "multipart/form-data":
            found = await self._from_form(await self._body(most + _AROUND))
        elif kind == "application/octet-stream" or kind.startswith("image/"):
            found = await self._body(most)
        else:
            raise Refused(415, "type", f"wanted {FORMS}, got {kind[:60] or 'nothing'}")
        if len(found) > most:
            raise _too_large(most)
        if not found:
            raise Refused(400, "empty", f"there is no image in the request; wanted {FORMS}")
        return found

    async def _body(self, most: int) -> bytes:
        length = self.headers.get("content-length", "0")
        # the parser of the protocol has seen that it is a number
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        try:
            return await asyncio.wait_for(self._whole(most), max(self.end - time.monotonic(), 0))
        except asyncio.TimeoutError as error:
            raise Refused(408, "slow", "the request was not all there in time") from error

    async def _whole(self, most: int) -> bytes:
        parts = []
        while self.more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            self.more = message.get("more_body", False)
            part = message.get("body", b"")
            self.size += len(part)
            if self.size > most:
                raise _too_large(most)
            parts.append(part)
        return b"".join(parts)

    async def _from_form(self, body: bytes) -> bytes:
        from starlette.datastructures import Headers, UploadFile
        from starlette.formparsers import MultiPartException, MultiPartParser

        class InMemory(MultiPartParser):
            # its size is bounded already, and there may be no disk
            spool_max_size = len(body) + 1

        async def whole() -> AsyncGenerator[bytes, None]:
            yield body

        headers = Headers({"content-type": self.headers["content-type"]})
        try:
            form = await InMemory(headers, whole(), max_files=1, max_fields=1, max_part_size=len(body)).parse()
        except MultiPartException as error:
            raise Refused(400, "form", f"not a form with one file: {error.message}") from error
        # of a boundary that is none
        except (ValueError, LookupError, AssertionError) as error:
            raise Refused(400, "form", "not a form that can be read") from error
        try:
            items = form.multi_items()
            if len(items) != 1 or items[0][0] != "image" or not isinstance(items[0][1], UploadFile):
                raise Refused(400, "form", "wanted a form with one file, named image")
            return await items[0][1].read()
        finally:
            await form.close()

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drain(self) -> None:
        """Let the rest of the body pass by, unless that takes long."""
        end, passed = time.monotonic() + _DRAINED_SECONDS, 0
        with suppress(asyncio.TimeoutError):
            while self.more and passed < _DRAINED_BYTES and time.monotonic() < end:
                message = await asyncio.wait_for(self._receive(), _DRAINED_PAUSE)
                passed += len(message.get("body", b""))
                self.more = message["type"] != "http.disconnect" and message.get("more_body", False)


def _from_json(body: bytes) -> bytes:
    try:
        found = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "json", "the body is not JSON") from error
    if not isinstance(found, dict) or set(found) != {"image"} or not isinstance(found["image"], str):
        raise Refused(400, "json", 'wanted {"image": "…"} with the image file in base64')
    try:
        return base64.b64decode(found["image"], validate=True)
    except (binascii.Error, ValueError) as error:
        said = 'image is not base64: wanted nothing else, no line breaks and no "data:" before it'
        raise Refused(400, "json", said) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused(400, "json", "a name is there twice")
    return found


def _too_large(most: int) -> Refused:
    return Refused(413, "bytes", f"more than the {most:,} bytes that are taken")
