"""What a data set used, what it did not and why: every format fills it in, and the engine prints it once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from involution.data.errors import SKIP_HINT, DataError, in_words, printable

_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """Something malformed in a data set.

    Attributes:
        entry: what it is: ``train/cat/7.jpg``, ``image 17``, ``annotation 305``.
        reason: what is wrong with it.
    """

    entry: str
    reason: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.reason}"


@dataclass
class Findings:
    """What a data set used and what it did not.

    Attributes:
        notes: what was recognised or taken for granted.
        used: images of each split.
        ignored: names of what was not used though nothing is wrong with it, by reason.
        problems: what is malformed, and left out if the user said so.
        drawn_by: options by which images were drawn into splits.
        lacking: splits of which it was said that classes have nothing in them.
        whole: whether one split was wanted, and all images were taken for want of splits.
        seen: absolute paths of the files that were used or told of; the rest of a data set is told of in the end.
    """

    notes: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    drawn_by: set[str] = field(default_factory=set, repr=False, compare=False)
    lacking: set[str] = field(default_factory=set, repr=False, compare=False)
    whole: bool = field(default=False, repr=False, compare=False)
    seen: set[str] = field(default_factory=set, repr=False, compare=False)

    def saw(self, *files: str | os.PathLike[str]) -> None:
        """Count files as used or told of; what is never seen is told of in the end."""
        self.seen.update(os.path.abspath(file) for file in files)

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def lack(self, split: str, what: str) -> None:
        """Say that a split has nothing of some classes: ``"no images of cat"``."""
        self.lacking.add(split)
        self.note(f"{split}: {what}")

    def take_whole(self, where: object) -> None:
        """Say that a data set without splits is taken as a whole, as one split."""
        self.whole = True
        self.note(f"{where}: no splits of its own, so all its images are taken")

    def ignore(self, reason: str, *names: object) -> None:
        """Count names as not used for a reason such as "no image"."""
        self.ignored.setdefault(reason, []).extend(str(name) for name in names)

    def problem(self, entry: object, reason: str) -> None:
        """Count an entry as malformed."""
        self.problems.append(Problem(str(entry), reason))

    def settle(self, where: object, on_problem: str) -> None:
        """Refuse the data set if there are problems that are not to be skipped.

        Raises:
            DataError: naming the first of them.
        """
        if self.problems and on_problem == "refuse":
            raise DataError(f"{where}: {self._problems()}. {SKIP_HINT}")

    def summary(self) -> str:
        """What was used, in one line: "train 24, val 8 images"."""
        return f"{', '.join(f'{split} {count:,}' for split, count in self.used.items())} images"

    def lines(self) -> list[str]:
        """What is worth saying, a line each; nothing where everything was used."""
        found = list(self.notes)
        found += [f"not used, {reason}: {some(names)}" for reason, names in self.ignored.items()]
        found += [f"left out, {self._problems()}"] if self.problems else []
        return [printable(line) for line in found]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, whole lists of names included."""
        found = asdict(self)
        for name in ("seen", "drawn_by", "lacking", "whole"):
            del found[name]
        return found

    def _problems(self) -> str:
        return in_words(
            [str(problem) for problem in self.problems], "problems" if len(self.problems) > 1 else "problem"
        )


def some(names: Sequence[str], shown: int = _SHOWN) -> str:
    """How many there are, and the first of them: "12 (a.txt, b.txt, c.txt, …)"."""
    return counted(len(names), names[:shown])


def listed(names: Sequence[str], shown: int = 5) -> str:
    """The first of some names in a sentence, and how many more there are: "cat, dog and 12 more"."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def counted(count: int, first: Sequence[str]) -> str:
    """As `some`, of names that are not all kept."""
    return f"{count} ({', '.join(first)}{', …' if count > len(first) else ''})"
