"""Ranges of settings, declared next to each setting, and the check of all of them."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Sequence
from typing import Any

# pixels: a square of this side is about what an image may have after a resize (data/transforms.py)
LARGEST_SIDE = 7000
# far beyond what anybody trains with, and far from where numbers or lists of them overflow
MOST = 1_000_000


class ConfigError(ValueError):
    """A setting is wrong, or two do not go together."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The allowed values of a setting, or of each item if it is a list.

    Attributes:
        low: the smallest.
        high: the largest.
        above: exclude `low` itself.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"greater than {self.low:g}" + (f" and at most {self.high:g}" if self.high < math.inf else "")
        return f"{self.low:g} or more" if self.high == math.inf else f"from {self.low} to {self.high}"


def ranged(default: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    """A dataclass field with a range.

    Args:
        default: its default; a list is copied each time.
        low: smallest value.
        high: largest value.
        above: the value must be greater than `low`.

    Example:
        >>> @dataclasses.dataclass
        ... class Settings:
        ...     epochs: int = ranged(3, 1)
        >>> check_settings(Settings(0))
        Traceback (most recent call last):
        involution.engine.settings.ConfigError: epochs must be 1 or more, got 0
    """
    metadata = {"range": Range(low, high, above)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def increasing(pair: Sequence[float]) -> bool:
    """Whether the first of two numbers is the smaller one, or both are equal."""
    return pair[0] <= pair[1]


def can_be_none(hint: Any) -> bool:
    """Whether None is among the values of a type, such as `int | None`."""
    return hint is Any or type(None) in typing.get_args(hint)


def one_of(choices: Sequence[str]) -> str:
    """Choices in words: "a or b", "one of a, b, c"."""
    return " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"


def check_settings(config: Any) -> None:
    """Check every setting of a dataclass, and of those inside it, by its range and its choices.

    Raises:
        ConfigError: naming the first setting that is wrong.
    """
    for name, value, field, hint in _settings(config, ""):
        if value is None and not can_be_none(hint):
            raise ConfigError(f"{name} must have a value, got None")
        given = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, float) and not math.isfinite(item) for item in given):
            raise ConfigError(f"{name} must be a finite number, got {value}")
        allowed = field.metadata.get("range")
        if allowed is not None and not all(item is None or isinstance(item, str) or item in allowed for item in given):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"{name} must be {allowed}, got {shown}")
        if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
            raise ConfigError(f"{name} must be {one_of(typing.get_args(hint))}, got {value!r}")


def setting_names(cls: type, prefix: str = "") -> list[str]:
    """Every dotted setting of a dataclass, `trainer.epochs` and so on."""
    names: list[str] = []
    for field in dataclasses.fields(cls):
        inner = _section(field)
        names += setting_names(inner, f"{prefix}{field.name}.") if inner else [prefix + field.name]
    return names


def _settings(config: Any, prefix: str) -> Iterator[tuple[str, Any, dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.")
        else:
            yield name, value, field, hints[field.name]


def _section(field: dataclasses.Field[Any]) -> type | None:
    factory = field.default_factory
    return factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None
