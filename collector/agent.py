"""The sampling loop: read every source at fixed times, keep windows, show the latest, hand the rest over."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import structlog

from collector.batch import Origin, compress, make_batch
from collector.clock import Clock
from collector.config import AgentSettings
from collector.exporter import Exposition, MetricsServer
from collector.log import configure_logging
from collector.push import PushClient, Pusher
from collector.registry import build_sources
from collector.sources.base import Source, health_readings, take
from collector.spool import Spool
from tokenstone.sample import Sample
from tokenstone.window import Window, WindowBuilder

log = structlog.get_logger()


class Stop(Protocol):
    """What the loop waits on: a threading.Event."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return whether it is time to stop."""
        ...


WindowSink = Callable[[Sequence[Window], Sequence[Sample]], None]
"""Takes the windows of a closed interval and the latest samples."""


class SamplingLoop:
    """Reads every source each `sample_seconds`, at times that are multiples of it from the start: no drift.

    A tick that comes too late (a slow source, a suspended machine) skips the ones it missed and does not catch up.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        exposition: Exposition,
        *,
        sample_seconds: float,
        window_seconds: Callable[[], float],
        sink: WindowSink | None,
        clock: Clock,
    ) -> None:
        self._sources, self._exposition, self._sink, self._clock = sources, exposition, sink, clock
        self._sample_seconds, self._window_seconds = sample_seconds, window_seconds
        self._samples: list[Sample] = []
        self._up: dict[str, bool] = {}

    def run(self, stop: Stop) -> None:
        """Sample until `stop`; then read once more, so that the last window reaches to the end, and close it."""
        start = opened = self._clock.monotonic()
        builder = WindowBuilder(self._clock.unix())
        tick = closed_tick = 0
        while True:
            now = self._tick(builder)
            # Counted in ticks, not in measured time: a tick that is late by a millisecond must not move a window's end.
            if tick and (tick - closed_tick + 0.5) * self._sample_seconds >= self._window_seconds():
                opened, closed_tick = self._close(builder, opened, now), tick
            tick = max(tick, int((self._clock.monotonic() - start) / self._sample_seconds)) + 1
            if stop.wait(max(0.0, start + tick * self._sample_seconds - self._clock.monotonic())):
                break
        self._close(builder, opened, self._tick(builder))

    def _tick(self, builder: WindowBuilder) -> float:
        now = self._clock.monotonic()
        self._samples = [take(source, self._clock) for source in self._sources]
        for sample in self._samples:
            builder.add(sample.readings)
            builder.add(health_readings(sample))
            self._log_change(sample)
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


def new_epoch(clock: Clock) -> str:
    """Draw the name of one start of an agent; names of later starts sort after those of earlier ones."""
    return f"{int(clock.unix() * 1000):014d}-{secrets.token_hex(4)}"


class BatchWriter:
    """Makes each closed interval a batch in the spool and tells the pusher. Sequences count from 0."""

    def __init__(self, origin: Origin, spool: Spool, notify: Callable[[], None]) -> None:
        self._origin, self._spool, self._notify = origin, spool, notify
        self._sequence = 0

    def __call__(self, windows: Sequence[Window], samples: Sequence[Sample]) -> None:
        """Put the windows of one interval into the spool."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        self._spool.put(self._origin.epoch, sequence, compress(make_batch(self._origin, sequence, windows, samples)))
        self._notify()


def run_agent(settings: AgentSettings, client: PushClient | None, stop: threading.Event) -> None:
    """Run the agent until `stop` is set; what is then not handed over stays in the spool for the next start.

    `client` takes the windows; without one nothing is pushed or spooled. Raises PortInUse, InvalidValue,
    NotWritable, Conflict or UnknownName before anything is sampled; later failures are data.
    """
    configure_logging()
    clock = Clock()
    with ExitStack() as stack:
        pusher: Pusher | None = None
        sink: WindowSink | None = None
        if client is not None:
            spool = Spool(settings.spool_dir, settings.spool_max_bytes)
            stack.callback(spool.close)
            pusher = Pusher(spool, client)
            origin = Origin(settings.cluster, settings.node, new_epoch(clock))
            sink = BatchWriter(origin, spool, pusher.notify)
        sources = build_sources(settings, clock=clock, delivery=pusher.delivery if pusher else None)
        for source in sources:
            stack.callback(source.close)
        exposition = Exposition(settings.node, clock, stale_seconds=10 + 3 * settings.sample_seconds)
        if settings.listen is not None:
            server = MetricsServer(settings.listen, exposition)
            address = server.start()
            log.info("metrics are served", address=str(address))
            if client is not None:
                client.announce(address.announced)
            stack.callback(server.stop)
        if pusher is not None:
            pusher.start()
            stack.callback(pusher.stop)

        def window_seconds() -> float:
            asked = pusher.asked_window_seconds() if pusher else None
            return settings.window_seconds if asked is None else min(asked, settings.window_seconds)

        loop = SamplingLoop(
            sources,
            exposition,
            sample_seconds=settings.sample_seconds,
            window_seconds=window_seconds,
            sink=sink,
            clock=clock,
        )
        log.info("agent started", node=settings.node, cluster=settings.cluster)
        loop.run(stop)
    log.info("agent stopped")
