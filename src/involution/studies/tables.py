"""A table of results, to be shown and to be written as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


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
