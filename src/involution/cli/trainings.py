"""Shared by the commands of studies that train: their options, the trainings one by one, and what is said of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from involution.cli.measuring import STUDY_ENDINGS, Steps, show
from involution.engine.files import check_free
from involution.studies import records
from involution.studies.errors import StudyError
from involution.studies.tables import Table

R = TypeVar("R")
LOOKS = ("-light.png", "-dark.png")
"""Endings of a study's pictures for pages."""


def check_study(output: Path, name: str, pictures: Iterable[str] = ()) -> None:
    """Refuse a folder or files that can't be written, before the work.

    Args:
        output: The study's folder.
        name: Of its files, without ending.
        pictures: Endings of its files besides `STUDY_ENDINGS`.

    Raises:
        StudyError: For a folder with anything else in it.
        OSError: If it can't be made or written to, or holds a file that must not be replaced.
    """
    records.check_study_folder(output)
    for ending in (*STUDY_ENDINGS, *pictures):
        check_free(output / f"{name}{ending}")


def check_jobs(jobs: int | None) -> None:
    """Raise `StudyError` for jobs below 1."""
    if jobs is not None and jobs < 1:
        raise StudyError(f"--jobs must be 1 or more, got {jobs}")


def do_trainings(
    going: Iterator[tuple[R, dict[str, Any]]],
    found: MutableMapping[Any, dict[str, Any]],
    total: int,
    said: Callable[[R, dict[str, Any]], str],
    key: Callable[[R], Any] = lambda run: run,
    after: Callable[[Callable[[str], None]], object] = lambda tell_step: None,
) -> bool:
    """Do the trainings that are left, and tell each that ended, what came out, and the time left.

    Args:
        going: Does them; yields each with its record.
        found: Records of those that ended before, to which the others are added.
        total: How many there are in all.
        said: From a training and its record to its name and what came out.
        key: From a training to its key in `found`.
        after: What is done then, given what shows its steps.

    Returns:
        Whether Ctrl-C stopped it, which is told.
    """
    before, start = len(found), time.perf_counter()
    with Steps(total - before, "training") as steps:
        try:
            for run, record in going:
                found[key(run)] = record
                ended = len(found) - before
                minutes = (time.perf_counter() - start) / ended * (total - len(found)) / 60
                left = f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"
                steps.say(f"{len(found)}/{total} {said(run, record)}, {left}")
            after(steps.say)
        except KeyboardInterrupt:
            done = f"{len(found)} of {total} training runs"
            print(f"interrupted, {done} are done; repeat the command to resume", file=sys.stderr)
            return True
    return False


def announce(console: Console, total: int, before: int, jobs: int, output: Path, title: str = "") -> None:
    """Say how many trainings there are, how many of them are left, and where."""
    done = f", {before} of them already done" if before else ""
    say(console, f"{title}{total} training runs{done}, {jobs} at once, in {output}")


def tell(console: Console, tables: Iterable[Table], notes: Iterable[str]) -> None:
    """Print what a study found."""
    for table in tables:
        show(console, table)
    for line in notes:
        say(console, line)


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
