"""What files say of themselves, as numbers and words; and the errors for files that say something else.

It needs nothing but Python, so that an exported file can be read where PyTorch is not installed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_LARGEST, _DEEPEST = 2**31, 8


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, of another kind, that does not fit, or that would run code.

    Attributes:
        missing: Entries that the model has and the file lacks.
        unexpected: Entries that the file has and the model lacks.
        mismatched: Entries whose shape or kind of number differs, each with what was wanted and given.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        mismatched: Sequence[str] = (),
    ) -> None:
        self.missing, self.unexpected, self.mismatched = list(missing), list(unexpected), list(mismatched)
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape or type": self.mismatched}
        report = "; ".join(f"{len(names)} {kind} ({shorten(names, 4)})" for kind, names in kinds.items() if names)
        super().__init__(_printable(f"{message}: {report}" if report else message))


class WeightsError(CheckpointError):
    """Published weights that there are not, that can't be had or that are not what was published."""


def _printable(text: str) -> str:
    """One line without control characters: names and values of a file may hold any."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def shorten(entries: Sequence[str], limit: int = 20) -> str:
    """Return ``entries`` as a comma-separated list, the end of a long one as a count.

    Example:
        >>> shorten(["a", "b", "c"], 2)
        'a, b, and 1 more'
    """
    more = f", and {len(entries) - limit} more" if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + more


def shown(value: Any) -> str:
    """A value from a file for a message: short, in one line, without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def plain(value: Any, most: int = 1_000_000) -> str | None:
    """Return what is wrong with a value that should be numbers, words, and lists and mappings of them; None if nothing.

    Args:
        value: The value.
        most: Numbers and words that it may hold.

    Example:
        >>> plain({"sizes": [1, 2.5, None, "a"]})
        >>> plain(float("nan"))
        'is nan, wanted a finite number'
    """
    left = [most]

    def wrong(one: Any, depth: int) -> str | None:
        left[0] -= 1
        if left[0] < 0 or depth > _DEEPEST:
            return f"is too large or too deep: wanted at most {most} values, {_DEEPEST} deep"
        if one is None or isinstance(one, bool | str):
            return None
        if isinstance(one, float):
            return None if math.isfinite(one) else f"is {one}, wanted a finite number"
        if isinstance(one, int):
            return None if abs(one) <= _LARGEST else "has a whole number beyond 2^31"
        if isinstance(one, list | tuple):
            return next((found for item in one if (found := wrong(item, depth + 1))), None)
        if isinstance(one, Mapping):
            if not all(isinstance(key, str) for key in one):
                return "has keys that are not words"
            return next((found for item in one.values() if (found := wrong(item, depth + 1))), None)
        return f"is of type {type(one).__name__}, wanted numbers, words, lists or mappings of them"

    return wrong(value, 0)
