from __future__ import annotations

from collections.abc import Collection, Mapping

from involution.data.errors import nearest


class ServeError(ValueError):
    """A server that can't be started as asked."""


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        status: HTTP's.
        kind: why, in a word.
        message: why, in a line for whoever sent it.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("retry-after", "1")


class Gone(Exception):
    """The client has closed the connection."""


def nearest_or_all(word: str, known: Collection[str]) -> str:
    """What to write instead of a word: what resembles it, or else all there is."""
    return nearest(word, known) or f"; wanted {' or '.join(known)}"
