"""Options that are read in some cases alone: one that is given where it does nothing is told, and one given again."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
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


def given_again(parser: Any, argv: Sequence[str]) -> list[str]:
    """A line for each option that is given again with another value, of which the last one alone counts."""
    known = parser._option_string_actions
    given: dict[str, tuple[str, str]] = {}
    lines = []
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        action = known.get(name)
        # each file of settings is read, and each value of some options added to the others
        if action is None or action.nargs == 0 or action.dest == "config" or name.endswith("+"):
            continue
        if isinstance(action, argparse._AppendAction):
            continue
        if not equals:
            rest = takewhile(lambda following: not following.startswith("--"), argv[place + 1 :])
            value = " ".join(list(rest)[: 1 if action.nargs is None else None])
        before = given.get(action.dest, (name, value))
        if before[1] != value:
            lines.append(f"{' '.join(before)} does not count: {name} {value} comes after it")
        given[action.dest] = (name, value)
    return lines


def without_effect(conditions: Iterable[Condition], args: Any, given: Mapping[str, str]) -> list[str]:
    """A line for each condition that is not met and whose options were given."""
    lines = []
    for condition in conditions:
        names = [given[option] for option in condition.options.split() if option in given]
        if names and not condition.used(args):
            lines.append(f"{' and '.join(names)} {'have' if len(names) > 1 else 'has'} no effect {condition.otherwise}")
    return lines
