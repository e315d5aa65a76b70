"""Windows: what is kept of the samples of one interval.

A gauge keeps count, mean, minimum and maximum; a counter keeps its increase. The increase is taken from the
last reading of the interval before, so that nothing between two windows is lost; the first reading ever seen
of a counter has no increase, which is absent and not zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tokenstone.metric import REGISTRY, Kind
from tokenstone.sample import Reading, SeriesKey

DEFAULT_SECONDS = 10.0
RUN_SECONDS = 1.0

# Windows for which a series may be silent before it is forgotten, so that jobs and pods that went do not add up.
# A counter that comes back later begins anew, and its first reading has no increase.
_FORGOTTEN_AFTER = 4096

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """One series over one interval. Gauges have mean, minimum and maximum; counters have delta."""

    series: SeriesKey
    start_unix_seconds: float
    duration_seconds: float
    count: int
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    delta: float | None = None


class _Gauge:
    __slots__ = ("count", "maximum", "minimum", "series", "total")

    def __init__(self, series: SeriesKey) -> None:
        self.series = series
        self.clear()

    def clear(self) -> None:
        self.count, self.total, self.minimum, self.maximum = 0, 0.0, math.inf, -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def window(self, start: float, seconds: float) -> Window:
        mean = min(max(self.total / self.count, self.minimum), self.maximum)
        return Window(self.series, start, seconds, self.count, mean, self.minimum, self.maximum)


class _Counter:
    __slots__ = ("count", "has_increase", "increase", "last", "series")

    def __init__(self, series: SeriesKey) -> None:
        self.series = series
        self.last: float | None = None
        self.clear()

    def clear(self) -> None:
        self.count, self.increase, self.has_increase = 0, 0.0, False

    def add(self, value: float) -> None:
        self.count += 1
        if self.last is not None:
            # A counter that went down was reset (driver reload, reboot): what it shows now is what has been added.
            self.increase += value - self.last if value >= self.last else value
            self.has_increase = True
        self.last = value

    def window(self, start: float, seconds: float) -> Window:
        return Window(self.series, start, seconds, self.count, delta=self.increase if self.has_increase else None)


class WindowBuilder:
    """Collects readings and closes them into windows.

    >>> builder = WindowBuilder(unix_seconds=0.0)
    >>> for watts in (100.0, 300.0):
    ...     builder.add([Reading("accel_power_watts", watts, "gpu0")])
    >>> [window] = builder.close(unix_seconds=10.0, duration_seconds=10.0)
    >>> window.mean, window.maximum, window.count
    (200.0, 300.0, 2)
    """

    def __init__(self, unix_seconds: float) -> None:
        self._start = unix_seconds
        self._series: dict[tuple[str, str, Labels], _Gauge | _Counter] = {}
        self._silent: dict[tuple[str, str, Labels], int] = {}

    def add(self, readings: Iterable[Reading]) -> None:
        """Take readings in. Unknown metrics raise KeyError: sources may only use registered names."""
        known = self._series
        for metric, value, device, labels in readings:
            if not math.isfinite(value):
                continue
            key = (metric, device, labels)
            series = known.get(key)
            if series is None:
                make = _Gauge if REGISTRY[metric].kind is Kind.GAUGE else _Counter
                series = known[key] = make(SeriesKey(*key))
            series.add(value)

    def close(self, *, unix_seconds: float, duration_seconds: float) -> list[Window]:
        """Return the windows since the last close and start the next interval at `unix_seconds`.

        `duration_seconds` is measured on the monotonic clock; the wall clock only labels the start.
        """
        windows = []
        for key, series in self._series.items():
            if series.count:
                windows.append(series.window(self._start, duration_seconds))
                series.clear()
                self._silent.pop(key, None)
            else:
                self._silent[key] = self._silent.get(key, 0) + 1
        for key in [key for key, closes in self._silent.items() if closes >= _FORGOTTEN_AFTER]:
            del self._series[key], self._silent[key]
        self._start = unix_seconds
        return windows
