"""The agent: sources, loop, exporter, spool and pusher put together, from start to stop."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from collector.batch import Origin
from collector.clock import Clock
from collector.exporter import Exposition
from collector.lanes import Lanes
from collector.log import Log, configure_logging
from collector.loop import SamplingLoop, Stop, WindowSink
from collector.push import PushClient, Pusher
from collector.registry import build_sources
from collector.server import MetricsServer
from collector.spool import Spool
from tokenstone.sample import Sample
from tokenstone.window import Window

if TYPE_CHECKING:
    from collector.config import AgentSettings

# How much of a tick the loop waits for sources that are slow.
_PATIENCE = 0.5

log = Log()


def new_epoch(clock: Clock) -> str:
    """Draw the name of one start of an agent; names of later starts sort after those of earlier ones."""
    return f"{int(clock.unix() * 1000):014d}-{secrets.token_hex(4)}"


def run_agent(
    settings: AgentSettings,
    client: PushClient | None,
    stop: Stop,
    released: threading.Event | None = None,
    clock: Clock | None = None,
) -> None:
    """Run the agent until `stop` is set; what is then not handed over stays in the spool for the next start.

    `client` takes the windows; without one nothing is pushed or spooled. While `released` is set, no driver is held.
    Raises PortInUse, InvalidValue, NotWritable, Conflict or UnknownName before anything is sampled; later failures
    are data.
    """
    configure_logging()
    clock = clock or Clock()
    with ExitStack() as stack:
        pusher: Pusher | None = None
        sink: WindowSink | None = None
        if client is not None:
            origin = Origin(settings.cluster, settings.node, new_epoch(clock))
            spool = Spool(settings.spool_dir, settings.spool_max_bytes, origin)
            stack.callback(spool.close)
            pusher = Pusher(spool, client)
            sink = _keeper(spool, pusher)
        sources = build_sources(settings, clock=clock, delivery=pusher.delivery if pusher else None)
        lanes = Lanes(sources, clock, patience_seconds=_PATIENCE * settings.sample_seconds)
        stack.callback(lanes.close)
        if released is not None:
            lanes.released = released
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
            lanes,
            exposition,
            sample_seconds=settings.sample_seconds,
            window_seconds=window_seconds,
            sink=sink,
            clock=clock,
        )
        log.info("agent started", node=settings.node, cluster=settings.cluster)
        loop.run(stop)
    log.info("agent stopped")


def _keeper(spool: Spool, pusher: Pusher) -> WindowSink:
    def keep(windows: Sequence[Window], samples: Sequence[Sample]) -> None:
        spool.put(windows, samples)
        pusher.notify()

    return keep
