"""Hourly roll-ups: of every series from its windows, and of every cluster from its series.

An hour of a node that receives windows is pending until a minute after the last of them; then it is worked out anew
from all its windows, so that whatever order they came in, and however late, the roll-up is the same. Each step is a
transaction of its own over a few nodes, because ingest waits for it on SQLite. One process at a time does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, literal, select, union_all
from sqlalchemy.orm import Session

from api.store.horizons import FORGOTTEN, ROLLED_UP, horizon, move_horizon
from api.store.statements import insert_from, try_turn
from api.store.tables import ClusterHour, Hour, Node, PendingHour, RunWindow, SeriesRow, Window

HOUR = 3600.0
SETTLED_SECONDS = 60.0
"""An hour is rolled up when it is over and nothing has come for so long."""
NODES_A_STEP = 8


def roll_up_step(session: Session, *, now: float) -> int:
    """Roll up one hour of a few nodes; return how many node-hours that were. 0: nothing is left, or others do it."""
    if not try_turn(session, "housekeeping"):
        return 0
    settled = (PendingHour.touched_unix_seconds <= now - SETTLED_SECONDS,
               PendingHour.start_unix_seconds <= now - SETTLED_SECONDS - HOUR)  # fmt: skip
    hour = session.scalar(select(func.min(PendingHour.start_unix_seconds)).where(*settled))
    if hour is None:
        _move_horizon(session, now)
        return 0
    mine = select(PendingHour.node_id).where(*settled, PendingHour.start_unix_seconds == hour)
    nodes = list(session.scalars(mine.order_by(PendingHour.node_id).limit(NODES_A_STEP)))
    # Deleted first: on PostgreSQL this waits for a batch that is on its way, so that its windows are seen below.
    session.execute(
        delete(PendingHour).where(PendingHour.start_unix_seconds == hour, PendingHour.node_id.in_(nodes)),
        execution_options={"synchronize_session": False},
    )
    if hour >= horizon(session, FORGOTTEN):  # the windows of forgotten hours went into the roll-up when they came
        insert_from(session, Hour, _hours(nodes, hour))
    clusters = set(session.scalars(select(Node.cluster).where(Node.id.in_(nodes))))
    waiting = select(Node.cluster).join(PendingHour, PendingHour.node_id == Node.id)
    waiting = waiting.where(PendingHour.start_unix_seconds == hour, Node.cluster.in_(clusters)).distinct()
    for cluster in sorted(clusters - set(session.scalars(waiting))):
        insert_from(session, ClusterHour, _cluster_hour(cluster, hour))
    return len(nodes)


def _move_horizon(session: Session, now: float) -> None:
    oldest = session.scalar(select(func.min(PendingHour.start_unix_seconds)))
    over = (now - SETTLED_SECONDS) // HOUR * HOUR
    reached = over if oldest is None else min(over, oldest)
    if reached > horizon(session, ROLLED_UP):
        move_horizon(session, ROLLED_UP, reached)


def _hours(nodes: list[int], hour: float) -> Select[*tuple[Any, ...]]:
    """Every series of the nodes in that hour."""
    series = select(SeriesRow.id).where(SeriesRow.node_id.in_(nodes))

    def part(table: type[Window | RunWindow]) -> Select[*tuple[Any, ...]]:
        time = table.start_unix_seconds
        return select(
            table.series_id, table.duration_seconds, table.count, table.mean, table.minimum, table.maximum, table.delta
        ).where(table.series_id.in_(series), time >= hour, time < hour + HOUR)

    w = union_all(part(Window), part(RunWindow)).subquery().c
    weights = func.sum(w.count).filter(w.mean.is_not(None))
    return select(
        w.series_id, literal(hour), func.sum(w.duration_seconds), func.sum(w.count),
        func.sum(w.mean * w.count) / weights, func.min(w.minimum), func.max(w.maximum), func.sum(w.delta),
        func.sum(w.mean * w.duration_seconds),
    ).group_by(w.series_id)  # fmt: skip


def _cluster_hour(cluster: str, hour: float) -> Select[*tuple[Any, ...]]:
    """Every metric of the cluster in that hour."""
    weights = func.sum(Hour.count).filter(Hour.mean.is_not(None))
    return (
        select(
            literal(cluster), SeriesRow.metric, literal(hour), func.count(), func.sum(Hour.observed_seconds),
            func.sum(Hour.count), func.sum(Hour.mean * Hour.count) / weights, func.min(Hour.minimum),
            func.max(Hour.maximum), func.sum(Hour.delta), func.sum(Hour.integral),
        )
        .join(SeriesRow, SeriesRow.id == Hour.series_id)
        .join(Node, Node.id == SeriesRow.node_id)
        .where(Node.cluster == cluster, Hour.start_unix_seconds == hour)
        .group_by(SeriesRow.metric)
    )  # fmt: skip


def merge_into_hours(session: Session, rows: Iterable[Sequence[Any]]) -> None:
    """Add windows (in the order of their table's columns) of forgotten hours to the roll-up: they are not kept."""
    for row in rows:
        key = (row[0], row[1] // HOUR * HOUR)
        hour = session.get(Hour, key)
        if hour is None:
            hour = Hour(series_id=key[0], start_unix_seconds=key[1], observed_seconds=0.0, count=0)
            session.add(hour)
            session.flush()
        _add(hour, *row[2:])


def _add(
    hour: Hour,
    duration: float,
    count: int,
    mean: float | None,
    minimum: float | None,
    maximum: float | None,
    delta: float | None,
) -> None:
    if mean is not None:
        # A series is of one kind: all of its windows have a mean, or none has.
        before = hour.mean * hour.count if hour.mean is not None else 0.0
        hour.mean = (before + mean * count) / ((hour.count if hour.mean is not None else 0) + count)
        hour.integral = (hour.integral or 0.0) + mean * duration
    if minimum is not None:
        hour.minimum = minimum if hour.minimum is None else min(hour.minimum, minimum)
    if maximum is not None:
        hour.maximum = maximum if hour.maximum is None else max(hour.maximum, maximum)
    if delta is not None:
        hour.delta = (hour.delta or 0.0) + delta
    hour.observed_seconds += duration
    hour.count += count
