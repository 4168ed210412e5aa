"""Limits that the system sets to a process, which libraries meet in ways of their own."""

from __future__ import annotations

import mmap
from typing import Any

# what the libraries behind torch take of the address space until the work begins
_LIBRARIES = 2**30
# what an error is blamed on that has less than this left
_LITTLE = 2**28


def address_space() -> int | None:
    """Return the bytes of address space that a process may have (`ulimit -v`); None for no limit."""
    try:
        import resource
    # Windows has none
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def is_starved(needed: int = _LITTLE) -> bool:
    """Return whether a limit leaves less address space than is needed."""
    if address_space() is None:
        return False
    try:
        mmap.mmap(-1, needed).close()
    except (OSError, MemoryError):
        return True
    return False


def check_room(torch: Any = None) -> None:
    """Raise `MemoryError` where torch alone fills the address space: OpenBLAS would ask for more for ever."""
    if is_starved(_LIBRARIES):
        raise MemoryError
