"""Axes of charts: where a value lies, in percent of the plot, and which values are named beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tick:
    """A named value of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, linear or (both above 0) logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Percent of the way from `low` to `high`; what lies outside is drawn at the edge."""
        if self.is_log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, 1e-300))
        else:
            low, high = self.low, self.high
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self, write: Callable[[float], str]) -> list[Tick]:
        """Round values along the axis: powers of ten, or at most six equal steps."""
        return [Tick(self.at(value), write(value)) for value in (_powers(self) if self.is_log else _steps(self))]


def log_axis(values: Iterable[float]) -> Axis:
    """An axis of whole decades that holds all of these values above 0.

    >>> log_axis([3, 250])
    Axis(low=1.0, high=1000.0, is_log=True)
    """
    exponents = [math.log10(value) for value in values if value > 0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), is_log=True)


def linear_axis(high: float, low: float = 0.0) -> Axis:
    """An axis from `low` to `high`; with no room between them, to one more.

    >>> linear_axis(8).at(2)
    25.0
    """
    return Axis(low, high if high > low else low + 1)


def _powers(axis: Axis) -> list[float]:
    low, high = round(math.log10(axis.low)), round(math.log10(axis.high))
    every = max(1, math.ceil((high - low) / 6))
    return [10.0**exponent for exponent in range(low, high + 1, every)]


def _steps(axis: Axis) -> list[float]:
    span = axis.high - axis.low
    rough = 10.0 ** math.floor(math.log10(span / 5))
    step = next(rough * factor for factor in (1, 2, 2.5, 5, 10) if span / (rough * factor) <= 6)
    first = math.ceil(axis.low / step - 1e-9)
    return [step * k for k in range(first, math.floor(axis.high / step + 1e-9) + 1)]
