"""What the commands that measure share: their checks, a progress that doesn't disturb, tables on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from involution.studies.environment import start_for_measuring
from involution.studies.errors import StudyError

if TYPE_CHECKING:
    from involution.studies.tables import Table


def check_measuring(command: str, batches: Sequence[int], seconds: float, threads: int | None) -> None:
    """Check what the commands have in common, and start anew for measuring where this process is the command.

    Raises:
        StudyError: For numbers that make no sense.
    """
    if min(batches) < 1:
        raise StudyError(f"--batch must be 1 or more, got {min(batches)}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise StudyError(f"--seconds must be 0 or more, got {seconds}")
    if threads is not None and threads < 1:
        raise StudyError(f"--threads must be 1 or more, got {threads}")
    # called from Python the process is the caller's
    if sys.argv[1:2] == [command]:
        start_for_measuring()


class Steps:
    """A progress bar, drawn when something was done, and by no thread of its own: that would be measured, too.

    Where the output is no terminal each step that is new is a line.

    Args:
        total: How many steps; None if nobody knows.
        title: What is done first.
    """

    def __init__(self, total: int | None, title: str) -> None:
        self._console = console = Console(stderr=True)
        self._last = ""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
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
        """Say what is being done, and that one step more is done."""
        task = self._progress.tasks[0]
        # what is timed goes on until its time is over: there may be more steps than foreseen
        done = task.completed + 1 if task.total is None else min(task.completed + 1, task.total)
        self._progress.update(self._task, description=what, completed=done, refresh=True)
        if what != self._last and not self._console.is_interactive:
            self._console.print(what, highlight=False, markup=False, soft_wrap=True)
        self._last = what


def show(console: Console, table: Table) -> None:
    """Print a table; where the output is no terminal, as wide as it is, for files and pipes."""
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
