"""Shared by the commands that measure: checks, a progress bar that doesn't disturb the timing, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from involution.engine.files import write_all, write_text
from involution.studies.origin import start_for_measuring, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from involution.studies.tables import Table


def start_as_command(command: str, *, dry_run: bool = False, on_cpu: bool = False) -> None:
    """Restart this process for measuring if it is the command; when called from Python, the process is the caller's."""
    if sys.argv[1:2] == [command]:
        start_for_measuring(dry_run=dry_run, on_cpu=on_cpu)


class Steps:
    """A progress bar that is drawn after each step and has no thread of its own, which would disturb the timing.

    If the output is not a terminal, each new step is a line.

    Args:
        total: Number of steps; None if unknown.
        title: The first step.
    """

    def __init__(self, total: int | None, title: str) -> None:
        self._console = console = Console(stderr=True)
        self._last = ""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_interactive
        )
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Steps:
        self._progress.start()
        self._progress.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        """Show the next step, and count one more step as done."""
        task = self._progress.tasks[0]
        # timing continues until its time is up, so there may be more steps than planned
        done = task.completed + 1 if task.total is None else min(task.completed + 1, task.total)
        self._progress.update(self._task, description=what, completed=done, refresh=True)
        if what != self._last and not self._console.is_interactive:
            self._console.print(what, highlight=False, markup=False, soft_wrap=True)
        self._last = what


def show(console: Console, table: Table) -> None:
    """Print a table; if the output is not a terminal, at full width for files and pipes."""
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.title), title_justify="left")
    for number, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if number < table.labels else "right")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    if not console.is_terminal:
        wide = console.options.update(width=1000)
        console.width = max(console.width, Measurement.get(console, wide, shown).maximum)
    console.print(shown)


STUDY_ENDINGS = (".csv", ".md", ".png")
"""Of the files that `write_study` writes."""


def write_study(output: Path, name: str, rows: Iterable[Mapping[str, Any]], text: str, figure: Figure | None) -> str:
    """Write rows as CSV, tables as Markdown, and a figure if there is one.

    Args:
        output: The folder.
        name: Name of the files, without suffix.
        rows: Rows of the study.
        text: The Markdown.
        figure: The plot.

    Returns:
        A line that says which files were written, and where.
    """
    from involution.studies import plots

    written = [f"{name}.csv", f"{name}.md", *([f"{name}.png"] if figure is not None else [])]
    write_all(
        lambda: write_csv(output / f"{name}.csv", rows),
        lambda: write_text(output / f"{name}.md", text),
        lambda: None if figure is None else plots.save(figure, output / f"{name}.png"),
    )
    return f"written to {output}: {', '.join(written)}"
