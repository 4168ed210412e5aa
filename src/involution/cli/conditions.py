"""Options that are read in some cases alone: one that is given where it does nothing is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """When options are used.

    Args:
        options: their destinations, with spaces between.
        used: whether they are, with these arguments.
        otherwise: why they are not, in words: ``without --output``.
    """

    options: str
    used: Callable[[Any], bool]
    otherwise: str


def given_options(parser: Any, argv: Sequence[str]) -> dict[str, str]:
    """Destination -> name of the options on a command line."""
    known = parser._option_string_actions
    names = [word.partition("=")[0] for word in argv if word.startswith("-")]
    return {known[name].dest: name for name in names if name in known}


def without_effect(conditions: Iterable[Condition], args: Any, given: Mapping[str, str]) -> list[str]:
    """A line for each condition that is not met and whose options were given."""
    lines = []
    for condition in conditions:
        names = [given[option] for option in condition.options.split() if option in given]
        if names and not condition.used(args):
            lines.append(f"{' and '.join(names)} {'have' if len(names) > 1 else 'has'} no effect {condition.otherwise}")
    return lines
