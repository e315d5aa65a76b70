"""Rolls up hours and forgets old windows while the service runs, a short step at a time: ingest goes in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from api.store.engine import Store
from api.store.retention import prune
from api.store.rollups import roll_up_step
from tokenstone.errors import TokenstoneError

log = structlog.get_logger()

PAUSE_SECONDS = 0.02
"""Between two steps, so that whoever waits to write gets his turn."""


def keep_house(store: Store, *, keep_days: float, now: float, stop: threading.Event) -> None:
    """Do what there is to do now, or until `stop`. What is left over is done the next time."""
    if not store.is_sqlite:
        store.make_partitions(now=now)
    while not stop.wait(PAUSE_SECONDS):
        with store.writing() as session:
            rolled_up = roll_up_step(session, now=now)
        if not rolled_up:
            break
    forgotten = partitions = 0
    for step in prune(store, keep_days=keep_days, now=now):
        forgotten += step.windows or 0 if step.kind == "forgotten" else 0
        partitions += step.kind == "partition"
        if stop.wait(PAUSE_SECONDS):
            return
    if forgotten or partitions:
        log.info("old windows forgotten", windows=forgotten, partitions=partitions)


@asynccontextmanager
async def house_kept(
    store: Store, clock: Callable[[], float], *, keep_days: float, every_seconds: float
) -> AsyncIterator[None]:
    """Keep house from time to time while the block runs; not at once, so that the start is quick."""
    stop, stopped = asyncio.Event(), threading.Event()

    async def work() -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_seconds)
            if stop.is_set():
                return
            try:
                await asyncio.to_thread(keep_house, store, keep_days=keep_days, now=clock(), stop=stopped)
            except TokenstoneError as error:
                log.warning("housekeeping failed; it is tried again", why=str(error))

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        stopped.set()
        stop.set()
        await task
