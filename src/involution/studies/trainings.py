"""The trainings of a study, each recorded when it ends, so that a stopped study goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from involution.studies import records
from involution.studies.origin import provenance
from involution.studies.workers import do_all

R = TypeVar("R")


@dataclass(frozen=True)
class Trainings(Generic[R]):
    """How a study's trainings are done, called, and known again.

    Attributes:
        study: What the study's folder says of itself; one that says something else is refused.
        name_of: From a training to the name of its record.
        settings: From a training to what makes it this one and no other, in JSON's types.
        train: Does one, given the study's folder, and returns what is recorded.
    """

    study: Mapping[str, Any]
    name_of: Callable[[R], str]
    settings: Callable[[R], Mapping[str, Any]]
    train: Callable[[R, Path], Mapping[str, Any]]

    def claim(self, folder: Path) -> None:
        """Make the study's folder, or find that it is this study's already; plans may differ, what was trained counts.

        Raises:
            StudyError: If the folder holds anything else.
        """
        records.claim_folder(folder, self.study)

    def path(self, run: R, folder: Path) -> Path:
        """Return where the record of a training is."""
        return folder / "results" / f"{self.name_of(run)}.json"

    def read(self, run: R, folder: Path) -> dict[str, Any] | None:
        """Return what a training left when it ended, None where it did not end.

        Raises:
            StudyError: If the record is of other settings, or can't be read.
        """
        return records.read_record(self.path(run, folder), self.settings(run))

    def read_all(self, runs: Iterable[R], folder: Path) -> dict[R, dict[str, Any]]:
        """Return the records of the trainings that ended."""
        return {run: found for run in runs if (found := self.read(run, folder)) is not None}

    def do(self, run: R, folder: Path) -> dict[str, Any]:
        """Train, measure, and write the record."""
        found = {"settings": self.settings(run), **self.train(run, folder)}
        records.write(self.path(run, folder), {**found, **provenance()})
        return found

    def do_missing(self, runs: Iterable[R], folder: Path, jobs: int) -> Iterator[tuple[R, dict[str, Any]]]:
        """Do the trainings that have no record yet.

        Args:
            runs: What is trained.
            folder: Of the study, claimed.
            jobs: How many at once, each in a process of its own and on one thread.

        Yields:
            Each training that ended, with its record.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
        """
        missing = [run for run in runs if self.read(run, folder) is None]
        yield from do_all(partial(self.do, folder=folder), missing, jobs)


def in_name(text: str) -> str:
    """Return letters and digits of a text, with hyphens between its words: for a file's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split())
