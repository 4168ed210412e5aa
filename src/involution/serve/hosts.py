"""Under which names a server may be asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def host_name(value: str) -> str:
    """The name or address in a Host header, without its port.

    Example:
        >>> host_name("Example.org:8080"), host_name("[::1]:80"), host_name("127.0.0.1")
        ('example.org', '::1', '127.0.0.1')
    """
    value = value.strip().lower()
    host = value[1:].partition("]")[0] if value.startswith("[") else value.rpartition(":")[0] or value
    return host.rstrip(".")


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a name is an address, localhost, or one of the given: what a foreign page leads here is always a name."""
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_same(origin: str, host: str) -> bool:
    """Whether the origin of a page is the server that was asked, by its Host header."""
    found = urlsplit(origin)
    return found.scheme in ("http", "https") and found.netloc.lower() == host.strip().lower()
