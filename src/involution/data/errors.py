import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

_SHOWN = 10
# marks around a name, and between its words
_MARKS = ".,;:!?_'\"`"
_JOINTS = re.compile(r"(?<=[^\W\d_])[_-]+(?=[^\W\d_])")
# small letters of Cyrillic and Greek that look like Latin ones
_LATIN = str.maketrans(
    "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0458\u0455\u043a\u043c\u0442\u043d\u0432"
    "\u03bf\u03b1\u03bd\u03c1\u03b9\u03ba\u03c4\u03c5",
    "aceopxyijskmthb" + "oavpiktu",
)
SKIP_HINT = "Fix them, or skip them: --data.on_problem skip when training, --on-problem skip when evaluating"


class DataError(ValueError):
    """A data set that is missing, incomplete or not what its format says."""

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))


def printable(name: object) -> str:
    """A name as one harmless line: what can't be printed, such as escape sequences, is shown by its code.

    Args:
        name: a path, or any text that came from outside.
    """
    return "".join(character if character.isprintable() else _escaped(character) for character in str(name))


def _escaped(character: str) -> str:
    code = ord(character)
    # how Python holds the bytes of a file name that is no UTF-8
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode("ascii")


def one_spelling(name: str) -> str:
    """A name without its spaces, its case, the marks around and between its words, and what does not show.

    Letters of other alphabets become the Latin ones that look the same.

    Example:
        >>> one_spelling("Traffic_Light."), one_spelling("traffic light"), one_spelling("1-2.")
        ('trafficlight', 'trafficlight', '1-2')
    """
    plain = unicodedata.normalize("NFKC", name)
    seen = "".join(one for one in plain if not one.isspace() and unicodedata.category(one) != "Cf")
    return _JOINTS.sub("", seen.strip(_MARKS)).casefold().translate(_LATIN)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean digits?", empty where nothing known resembles the word."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def in_words(complaints: Sequence[str], what: str) -> str:
    """How many complaints there are, and the first ten of them: "12 malformed entries: ...; and 2 more"."""
    more = f"; and {len(complaints) - _SHOWN} more" if len(complaints) > _SHOWN else ""
    return f"{len(complaints)} {what}: {'; '.join(complaints[:_SHOWN])}{more}"
