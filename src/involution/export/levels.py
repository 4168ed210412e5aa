"""Involutions in 8 bits, whatever the runtime: what levels mean, the constants of their node, what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HIGHEST = 255
"""The highest level."""


class KeptError(Exception):
    """Why an involution keeps float32."""


@dataclass(frozen=True)
class Range:
    """Levels 0 to 255 are ``step * (level - zero)``."""

    step: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """The range from low to high in which 0 is a level."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max(high - low, 1e-6) / HIGHEST
        return cls(step, round(-low / step))

    @property
    def bounds(self) -> tuple[np.float32, np.float32]:
        """What the lowest and the highest level stand for."""
        return np.float32(-self.zero * self.step), np.float32((HIGHEST - self.zero) * self.step)


def constants(given: Sequence[np.ndarray], channels: int, *ranges: Range) -> list[np.ndarray]:
    """The constants of `QUANTISED_INVOLUTION`, in order.

    Args:
        given: those of the node in float32, from its span weights on; absent ones are empty or left out at the end.
        channels: of its input.
        *ranges: of its input, its reduced features and its output.
    """
    of_input, of_reduced, of_output = ranges
    absent: list[np.ndarray] = [np.zeros(0, np.float32)] * (4 - len(given))
    weight, bias, scale, shift = [*given, *absent]
    taps = weight.shape[:3]
    per_tap = np.maximum(np.abs(weight).max(3), 1e-12) / 127
    integers = np.rint(weight / per_tap[..., None])
    span_scale = per_tap * of_reduced.step
    bias = (bias if bias.size else np.zeros(taps)) - span_scale * of_reduced.zero * integers.sum(3)
    scale = (scale if scale.size else np.ones(channels)) * (of_input.step / of_output.step)
    shift = (shift if shift.size else np.zeros(channels)) / of_output.step + of_output.zero
    return [integers.astype(np.int8), *(one.astype(np.float32) for one in (bias, scale, shift, span_scale))]


def told(total: int, kept: Counter[str]) -> str:
    """How many involutions are in 8 bits, and why others keep float32; nothing where there are none.

    Example:
        >>> told(3, Counter({"the weights are computed": 1}))
        '2 of 3 involutions in 8 bits; 1 in float32, as the weights are computed'
    """
    reasons = [f"{count} in float32, as {reason}" for reason, count in kept.items() if count]
    return "; ".join([f"{total - kept.total()} of {total} involutions in 8 bits", *reasons]) if total else ""
