"""A run whose client has fallen silent is failed: nothing stays open for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from api.store.engine import Store
from api.store.runs import fail_silent_runs, has_silent_runs
from tokenstone.errors import TokenstoneError

log = structlog.get_logger()


def check_leases(store: Store, now: float) -> None:
    """Fail the runs whose lease has run out. Cheap where there is none."""
    with store.reading() as session:
        silent = has_silent_runs(session, now=now)
    if silent:
        with store.writing() as session:
            count = fail_silent_runs(session, now=now)
        log.warning("runs failed because their clients were lost", runs=count)


@asynccontextmanager
async def leases_checked(store: Store, clock: Callable[[], float], every_seconds: float) -> AsyncIterator[None]:
    """Check the leases now and from time to time while the block runs."""
    stop = asyncio.Event()

    async def check() -> None:
        while not stop.is_set():
            try:
                await asyncio.to_thread(check_leases, store, clock())
            except TokenstoneError as error:
                log.warning("leases could not be checked", why=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_seconds)

    task = asyncio.create_task(check())
    try:
        yield
    finally:
        stop.set()
        await task
