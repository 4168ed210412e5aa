"""Ctrl-C while the command is being imported: where no work has begun, it ends at once with the documented code."""

from __future__ import annotations

# `signal` imports more than all of this package does before the command's first line, during which nobody would listen
import _signal  # type: ignore[import-not-found]
import os
import sys

_NAMES = ("involution", "involution.exe", "involution-script.py", "involution-script.pyw")


def is_command() -> bool:
    """Return whether this process is the command, as far as that can be told while the package is being imported."""
    # a program that embeds Python may have no arguments
    program, words = getattr(sys, "argv", None) or [""], getattr(sys, "orig_argv", [])
    if program[0] == "-m":
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["involution"]
    return os.path.basename(program[0]) in _NAMES


def listen() -> None:
    """Take over Ctrl-C until the command does, unless it is ignored or somebody else's."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, end)


def end(*_: object) -> None:
    """Be the handler: an exception could arise in a callback of the import machinery, which forgets it."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
