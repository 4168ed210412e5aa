"""What is wrong with a checkpoint file."""

from collections.abc import Sequence


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
