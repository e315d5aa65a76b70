"""The sampling loop: read every source at fixed times, keep windows, show the latest, hand the rest over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from collector.clock import Clock
from collector.exporter import Exposition
from collector.lanes import Lanes
from collector.log import Log
from collector.sources.base import health_readings
from tokenstone.sample import Sample
from tokenstone.window import Window, WindowBuilder

# Between two ticks the machine was suspended, if it slept for longer than this.
_SUSPENDED_SECONDS = 1.0

log = Log()


class Stop(Protocol):
    """What the loop waits on: a threading.Event."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return whether it is time to stop."""
        ...


WindowSink = Callable[[Sequence[Window], Sequence[Sample]], None]
"""Takes the windows of a closed interval and the latest samples."""


class SamplingLoop:
    """Reads the sources each `sample_seconds`, at times that are multiples of it from the start: no drift.

    A tick that comes too late (a slow source, a busy machine) skips the ones it missed and does not catch up. Time
    in which the machine was suspended belongs to no window: the one before ends where the machine fell asleep.
    """

    def __init__(
        self,
        lanes: Lanes,
        exposition: Exposition,
        *,
        sample_seconds: float,
        window_seconds: Callable[[], float],
        sink: WindowSink | None,
        clock: Clock,
    ) -> None:
        self._lanes, self._exposition, self._sink, self._clock = lanes, exposition, sink, clock
        self._sample_seconds, self._window_seconds = sample_seconds, window_seconds
        self._samples: list[Sample] = []
        self._up: dict[str, bool] = {}

    def run(self, stop: Stop) -> None:
        """Sample until `stop`; then read once more, so that the last window reaches to the end, and close it."""
        start = opened = last = self._clock.monotonic()
        asleep = self._clock.asleep()
        builder = WindowBuilder(self._clock.unix())
        tick = closed_tick = 0
        while True:
            asleep, before = self._clock.asleep(), asleep
            if asleep - before > _SUSPENDED_SECONDS:
                log.info("the machine was suspended", seconds=round(asleep - before, 1))
                self._close(builder, opened, last)
                opened, closed_tick = self._clock.monotonic(), tick
            last = self._tick(builder)
            # Counted in ticks, not in measured time: a tick that is late by a millisecond must not move a window's end.
            if tick and (tick - closed_tick + 0.5) * self._sample_seconds >= self._window_seconds():
                opened, closed_tick = self._close(builder, opened, last), tick
            tick = max(tick, int((self._clock.monotonic() - start) / self._sample_seconds)) + 1
            if stop.wait(max(0.0, start + tick * self._sample_seconds - self._clock.monotonic())):
                break
        self._close(builder, opened, self._tick(builder))

    def _tick(self, builder: WindowBuilder) -> float:
        now = self._clock.monotonic()
        taken = self._lanes.read()
        self._samples = [sample for sample, _ in taken]
        for sample, is_fresh in taken:
            if is_fresh:
                self._log_change(sample)
                if self._sink is not None:
                    builder.add(sample.readings)
                    builder.add(health_readings(sample))
        self._exposition.update(self._samples)
        return now

    def _close(self, builder: WindowBuilder, opened: float, now: float) -> float:
        windows = builder.close(unix_seconds=self._clock.unix(), duration_seconds=now - opened)
        if windows and self._sink is not None:
            try:
                self._sink(windows, self._samples)
            except Exception:  # an agent runs for months: one interval is lost, and the log says so
                log.exception("windows could not be kept", windows=len(windows))
        return now

    def _log_change(self, sample: Sample) -> None:
        up = sample.error is None
        if self._up.get(sample.source) is not up:
            self._up[sample.source] = up
            if up:
                log.info("source is up", source=sample.source)
            else:
                log.warning("source is down", source=sample.source, why=sample.error)
