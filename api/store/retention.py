"""Forgets windows whose days are over: they live on in the hourly roll-ups, and those of runs beside them.

A window belongs to a run if it overlaps the run's allocation on one of its nodes; a run that has not ended holds
everything since it was created. These move to a table of their own before anything is forgotten, so a run can be
scored again from the very windows it was scored from, however old. Runs that failed without facts hold nothing.

The cut is at midnight (UTC), and never after an hour that is not rolled up yet. Every step is a short transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import delete, func, insert, literal, or_, select, text
from sqlalchemy.orm import Session

from api.store.engine import Store
from api.store.horizons import FORGOTTEN, PRUNED, ROLLED_UP, horizon, move_horizon
from api.store.partitions import DAY, DEFAULT, LOCK_MILLISECONDS, day_of_partition, partitions_of
from api.store.statements import try_turn
from api.store.tables import Node, PendingHour, Run, RunFacts, RunNode, RunWindow, SeriesRow, Window, core_table
from api.store.windows import LONGEST_WINDOW_SECONDS

STEP_SECONDS = 0.05
"""A step goes on to the next series until so much time has passed."""
_NO_SYNC = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class PruneStep:
    """What a step did: windows moved to runs, or forgotten (unknown where a partition was dropped whole)."""

    kind: Literal["kept", "forgotten", "partition"]
    windows: int | None
    done: int
    total: int


class _Hold(NamedTuple):
    """A run's claim on the windows of a node."""

    node_id: int
    begin: float
    end: float


def prune(store: Store, *, keep_days: float, now: float) -> Iterator[PruneStep]:
    """Forget windows of days that ended more than `keep_days` ago, a step at a time."""
    with store.writing() as session:
        if not try_turn(session, "housekeeping"):
            return
        cut, before = cut_off(session, keep_days=keep_days, now=now), horizon(session, PRUNED)
        if cut <= before:
            return
        # From here on late windows of these days go into the roll-ups alone (api/store/ingest.py).
        move_horizon(session, FORGOTTEN, cut)
    with store.reading() as session:
        holds = _holds(session, before, cut, now)
        first, last = session.execute(select(func.min(SeriesRow.id), func.max(SeriesRow.id))).one()
    for number, hold in enumerate(holds):
        with store.writing() as session:
            count = _keep(session, hold, cut)
        yield PruneStep("kept", count, number + 1, len(holds))
    if not store.is_sqlite:
        yield from _drop_partitions(store, cut)
    if last is not None:
        yield from _delete(store, cut, first, last)
    with store.writing() as session:
        move_horizon(session, PRUNED, cut)


def cut_off(session: Session, *, keep_days: float, now: float) -> float:
    """The midnight before which windows can be forgotten, all of them being rolled up; 0 where there is none."""
    oldest = session.scalar(select(func.min(PendingHour.start_unix_seconds)))
    limits = [now - keep_days * DAY, horizon(session, ROLLED_UP), *([] if oldest is None else [oldest])]
    return float(max(0.0, min(limits) // DAY * DAY))


def _holds(session: Session, before: float, cut: float, now: float) -> list[_Hold]:
    begin = func.coalesce(RunFacts.started_unix_seconds, Run.created_unix_seconds)
    end = func.coalesce(RunFacts.ended_unix_seconds, literal(now))
    query = (
        select(Node.id, begin, end)
        .select_from(Run)
        .join(RunNode, RunNode.run == Run.id)
        .join(Node, (Node.cluster == Run.cluster) & (Node.name == RunNode.node))
        .outerjoin(RunFacts, RunFacts.run == Run.id)
        .where(or_(RunFacts.run.is_not(None), Run.ended_unix_seconds.is_(None)), begin < cut, end >= before)
        .order_by(begin)
    )
    return [_Hold(*row) for row in session.execute(query)]


def _keep(session: Session, hold: _Hold, cut: float) -> int:
    """Move the windows of one node that a run holds."""
    series = select(SeriesRow.id).where(SeriesRow.node_id == hold.node_id)
    start = Window.start_unix_seconds
    where = (
        Window.series_id.in_(series), start < cut, start <= hold.end,
        # The first bound finds the rows by their key, the second is the one that is meant.
        start >= hold.begin - LONGEST_WINDOW_SECONDS, start + Window.duration_seconds >= hold.begin,
    )  # fmt: skip
    names = [column.name for column in core_table(RunWindow).columns]
    found = select(*(getattr(Window, name) for name in names)).where(*where)
    moved = session.execute(insert(core_table(RunWindow)).from_select(names, found))
    session.execute(delete(Window).where(*where), execution_options=_NO_SYNC)
    return _count(moved)


def _delete(store: Store, cut: float, first: int, last: int) -> Iterator[PruneStep]:
    """Delete what is left, series after series: each lies together in the order of its key."""
    if not store.is_sqlite:
        yield from _delete_from_default(store, cut)
        return
    series = first
    while series <= last:
        began, count = time.monotonic(), 0
        with store.writing() as session:
            while series <= last and time.monotonic() - began < STEP_SECONDS:
                where = (Window.series_id == series, Window.start_unix_seconds < cut)
                count += _count(session.execute(delete(Window).where(*where), execution_options=_NO_SYNC))
                series += 1
        yield PruneStep("forgotten", count, series - first, last - first + 1)


def _delete_from_default(store: Store, cut: float) -> Iterator[PruneStep]:
    with store.writing() as session:
        query = text(f"DELETE FROM {DEFAULT} WHERE start_unix_seconds < :cut")  # noqa: S608  our own name
        count = _count(session.execute(query, {"cut": cut}))
    yield PruneStep("forgotten", count, 1, 1)


def _drop_partitions(store: Store, cut: float) -> Iterator[PruneStep]:
    with store.reading() as session:
        days = [(name, day_of_partition(name)) for name in partitions_of(session.connection())]
    old = [name for name, day in days if day is not None and (day + 1) * DAY <= cut]
    for number, name in enumerate(old):
        with store.writing() as session:  # a reader in the way ends this; it is tried again
            session.execute(text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}"))
            session.execute(text(f"DROP TABLE IF EXISTS {name}"))
        yield PruneStep("partition", None, number + 1, len(old))
    store.partitions.forget()


def _count(result: Any) -> int:
    return int(result.rowcount)
