"""How often something is done: after a number of steps, or of seconds."""

import re
from typing import NamedTuple

from involution.engine.settings import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Interval(NamedTuple):
    """One of the two is given, or neither.

    Attributes:
        steps: optimiser steps.
        seconds: time.
    """

    steps: int | None = None
    seconds: float | None = None


def interval(value: int | str | None) -> Interval:
    """An interval from a setting: a number of steps, or a time such as 90s, 10m or 1.5h.

    Raises:
        ConfigError: for anything else.
    """
    if value is None:
        return Interval()
    if isinstance(value, int) or value.isdecimal():
        if int(value) >= 1:
            return Interval(steps=int(value))
    elif (found := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)) and float(found[1]) > 0:
        return Interval(seconds=float(found[1]) * _SECONDS[found[2]])
    raise ConfigError(f"trainer.checkpoint_every must be a number of steps, or a time such as 10m, got {value!r}")
