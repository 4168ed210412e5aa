"""A table of results, to be shown and to be written as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from involution.studies.origin import provenance


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first ``labels`` columns are words, the others figures.

    Attributes:
        title: What the table shows.
        header: A name for each column.
        rows: A text for each column.
        labels: How many columns are words.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def markdown(self) -> str:
        """Return the table in Markdown, words to the left and figures to the right."""
        marks = ["---" if column < self.labels else "---:" for column in range(len(self.header))]
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in (escaped[0], marks, *escaped[1:])]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


def spread(row: Mapping[str, Any], key: str, form: str) -> str:
    """Return a figure of a row, its median and in brackets its 20th and 80th percentile; nothing where it has none.

    Args:
        row: With ``p20_KEY``, ``p50_KEY`` and ``p80_KEY``.
        key: ``ms``, ``ratio`` or another.
        form: How a figure is written, such as ``.2f``.
    """
    if f"p50_{key}" not in row:
        return ""
    p20, p50, p80 = (format(row[f"{p}_{key}"], form) for p in ("p20", "p50", "p80"))
    return f"{p50} ({p20}–{p80})"


def document(tables: Iterable[Table], notes: Iterable[str], command: str) -> str:
    """Return tables in Markdown, notes below them, and where the figures come from.

    Args:
        tables: One or more.
        notes: A line each.
        command: What of ``involution`` made them.
    """
    origin = ", ".join(f"{key} {value}" for key, value in provenance().items())
    lines = [f"- {note}" for note in (*notes, f"Made by involution {command}: {origin}.")]
    return "\n".join([*(table.markdown() for table in tables), *lines, ""])
