import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A data set that is missing, incomplete or not what its format says."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean digits?", empty where nothing known resembles the word."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
