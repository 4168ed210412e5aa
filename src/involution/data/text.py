"""Reading the text files of data sets: class names, annotations and lists, whoever wrote them."""

from __future__ import annotations

import codecs
import csv
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from involution.data.errors import DataError, printable
from involution.data.paths import why_unreadable

# byte order marks; that of UTF-32 begins as that of UTF-16 does
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# headings of the column of names, and of those beside it
_COLUMNS = frozenset(("class", "classes", "name", "names", "label", "labels", "category", "categories"))
_BESIDE = frozenset(("id", "ids", "index", "number", "value", "r", "g", "b", "red", "green", "blue", "rgb", "hex"))
_BESIDE |= {"colour", "color", "colours", "colors", "parts", "actions"}
# as Python holds the bytes of a file name that is no UTF-8
_SURROGATE = re.compile("[\ud800-\udfff]")


def nfc(text: str) -> str:
    """A name with its accents composed: some systems store é as e with an accent of its own, which is another text.

    Bytes of a name that is no UTF-8 are shown by their codes, so that it can be written.
    """
    composed = unicodedata.normalize("NFC", text)
    return composed if composed.isascii() else _SURROGATE.sub(lambda found: printable(found[0]), composed)


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or Windows-1252, with line feeds alone as ends of lines.

    A byte order mark decides; without one it is UTF-8, UTF-16 where every other byte is zero, and Windows-1252 where it
    is no UTF-8.

    Raises:
        DataError: for a file that can't be read, or in none of these.
    """
    why = why_unreadable(file, empty=True)
    if why:
        raise DataError(f"{file}: {why}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    return _decode(data, file).replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, file: Path) -> str:
    encodings = [name for mark, name in _MARKS if data.startswith(mark)][:1]
    if not encodings:
        head = data[:1000]
        # text in Latin letters whose marks were lost
        if head and not len(data) % 2 and head.count(0) * 3 > len(head):
            encodings = ["utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"]
        else:
            encodings = ["utf-8", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DataError(f"{file}: not text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")


def read_lines(file: Path) -> list[str]:
    """The lines of a text file without the spaces around them, and without the empty ones at its end."""
    lines = [line.strip() for line in read_text(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: for a file that can't be read, or is no JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        several = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        why = "several JSON values, as in JSON lines; wanted one of all" if several else f"broken JSON ({error})"
        raise DataError(f"{file}: {why}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which the library would keep the last of equal names in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice in one object")
    return found


def _is_heading(line: str) -> bool:
    """Whether a line is made of words for columns, such as class, or id and name, and hence names no class."""
    words = [word for word in re.split(r"[\W_]+", line.casefold()) if word]
    return not _COLUMNS.isdisjoint(words) and set(words) <= _COLUMNS | _BESIDE


def _is_table(lines: Sequence[str]) -> bool:
    """Whether lines are those of a table whose first one heads its columns, such as index,class_name,images."""
    for mark in ",;\t|":
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
        if len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and any(map(_is_heading, rows[0])):
            return True
    return False


def one_list(files: Sequence[Path], read: Callable[[Path], list[str]]) -> list[str]:
    """The class names that several files of a folder agree on.

    Raises:
        DataError: where two of them differ: labels are places in a list, and nothing tells in which.
    """
    names = read(files[0])
    for other in files[1:]:
        if read(other) != names:
            raise DataError(
                f"{files[0].parent}: {files[0].name} and {other.name} name the classes differently; keep one of them"
            )
    return names


def read_names(file: Path, least: int = 2, most: int | None = None) -> list[str]:
    """Class names from a file: one a line, or a JSON list of texts where its name ends in .json.

    Their places are the labels, so nothing is passed over: an empty line or an entry that is no text is an error.

    Args:
        file: the file.
        least: fewest names.
        most: most names, None for any number.

    Raises:
        DataError: for a file that can't be read, names that are empty or appear twice, too few or too many.
    """
    if file.suffix.lower() == ".json":
        found = read_json(file)
        if not isinstance(found, list):
            raise DataError(f"{file}: wanted a JSON list of class names, got {_short(found)}")
        place = "entry"
    else:
        found = read_lines(file)
        place = "line"
        if found and not _is_heading(found[0]) and _is_table(found):
            raise DataError(
                f"{file}: line 1, {found[0][:80]!r}, surely heads the columns of a table; wanted the class names "
                "alone, one per line, in the order of the labels"
            )
        if found and _is_heading(found[0]):
            raise DataError(
                f"{file}: line 1, {found[0][:80]!r}, is surely a heading, but positions are labels; remove it, or, if "
                "it is a class, write the names as a JSON list, classes.json"
            )
        comment = next((number for number, line in enumerate(found, 1) if re.match(r"(#+|//)\s", line)), None)
        if comment:
            raise DataError(
                f"{file}: line {comment}, {found[comment - 1][:80]!r}, is surely a comment, but positions are labels; "
                "remove it, or, if it is a class, write the names as a JSON list, classes.json"
            )
    names: list[str] = []
    for number, name in enumerate(found, 1):
        if not isinstance(name, str):
            raise DataError(f"{file}: {place} {number} is {_short(name)}; wanted a class name as text")
        name = nfc(name.strip())
        if not name:
            raise DataError(f"{file}: {place} {number} is empty, but positions are labels; remove it or name the class")
        if name in names:
            raise DataError(f"{file}: {place} {number} repeats {name!r}; wanted different class names")
        names.append(name)
    if len(names) < least or (most is not None and len(names) > most):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise DataError(
            f"{file}: wanted {wanted} different class names, one per line or as a JSON list, got {len(names)}"
        )
    return names


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
