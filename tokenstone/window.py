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


@dataclass(slots=True)
class _Gauge:
    count: int = 0
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf


@dataclass(slots=True)
class _Counter:
    last: float
    count: int = 0
    increase: float = 0.0
    has_increase: bool = False


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
        self._gauges: dict[SeriesKey, _Gauge] = {}
        self._counters: dict[SeriesKey, _Counter] = {}

    def add(self, readings: Iterable[Reading]) -> None:
        """Take readings in. Unknown metrics raise KeyError: sources may only use registered names."""
        for reading in readings:
            if not math.isfinite(reading.value):
                continue
            if REGISTRY[reading.metric].kind is Kind.GAUGE:
                self._add_gauge(reading)
            else:
                self._add_counter(reading)

    def _add_gauge(self, reading: Reading) -> None:
        gauge = self._gauges.setdefault(reading.series, _Gauge())
        gauge.count += 1
        gauge.total += reading.value
        gauge.minimum = min(gauge.minimum, reading.value)
        gauge.maximum = max(gauge.maximum, reading.value)

    def _add_counter(self, reading: Reading) -> None:
        counter = self._counters.get(reading.series)
        if counter is None:
            self._counters[reading.series] = _Counter(last=reading.value, count=1)
            return
        step = reading.value - counter.last
        # A counter that went down was reset (driver reload, reboot): what it shows now is what has been added.
        counter.increase += step if step >= 0 else reading.value
        counter.last = reading.value
        counter.count += 1
        counter.has_increase = True

    def close(self, *, unix_seconds: float, duration_seconds: float) -> list[Window]:
        """Return the windows since the last close and start the next interval at `unix_seconds`.

        `duration_seconds` is measured on the monotonic clock; the wall clock only labels the start.
        """
        windows = [
            Window(series, self._start, duration_seconds, g.count,
                   mean=min(max(g.total / g.count, g.minimum), g.maximum), minimum=g.minimum, maximum=g.maximum)
            for series, g in self._gauges.items()
        ]  # fmt: skip
        for series, counter in self._counters.items():
            if counter.count:
                delta = counter.increase if counter.has_increase else None
                windows.append(Window(series, self._start, duration_seconds, counter.count, delta=delta))
            counter.count, counter.increase, counter.has_increase = 0, 0.0, False
        self._gauges.clear()
        self._start = unix_seconds
        return windows
