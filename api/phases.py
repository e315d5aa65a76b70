"""The phases of a run, from its facts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from api.scoring import AnyFacts
from api.store.paging import decode_cursor, make_page
from api.views import PhaseView
from tokenstone.wire import Page, TrainingFacts


def page_of_phases(facts: AnyFacts, *, cursor: str | None, limit: int) -> Page[PhaseView]:
    """Device by device, in order of time. Facts never change, so a cursor is a count."""
    skipped = max(0, int(decode_cursor(cursor, int)[0])) if cursor is not None else 0
    found = list(islice(enumerate(_phases(facts), 1), skipped, skipped + limit + 1))
    return make_page(found, limit, item=lambda entry: entry[1], key=lambda entry: (entry[0],))


def _phases(facts: AnyFacts) -> Iterator[PhaseView]:
    if isinstance(facts, TrainingFacts):
        for device in facts.devices:
            for phase in device.phases:
                yield PhaseView(device=device.device, **phase.model_dump())
        return
    for number in range(facts.device_count):
        # Devices of one engine work in lock step; what is not start-up is serving.
        yield _lock_step(number, "startup", 0.0, facts.startup_seconds)
        yield _lock_step(number, "serving", facts.startup_seconds, facts.allocated_seconds - facts.startup_seconds)


def _lock_step(number: int, kind: str, start: float, seconds: float) -> PhaseView:
    return PhaseView(
        device=str(number),
        kind=kind,
        start_seconds=start,
        duration_seconds=max(0.0, seconds),
        activity_seconds={},
        steps=0,
    )
