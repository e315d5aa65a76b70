"""Device-days of every accelerator, from its windows and from the runs that held it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select, union_all
from sqlalchemy.orm import Session

from api.store.horizons import ROLLED_UP, horizon
from api.store.statements import floor_divided
from api.store.tables import Hour, Node, NodeDevice, Run, RunWindow, SeriesRow, Window
from tokenstone.fleet import SECONDS_PER_DAY, DeviceDay, Interval, covered_seconds, present_seconds

BUSY = "accel_busy_ratio"
DeviceKey = tuple[str, str, str]
"""Cluster, node, device."""
_TABLES = (Window, RunWindow, Hour)


class _Accelerator(NamedTuple):
    key: DeviceKey
    series_id: int
    model: str
    first: float
    """Start of its first window, and of its last."""
    last: float


def device_days(
    session: Session, *, cluster: str | None, first_day: int, last_day: int, now: float
) -> Iterator[DeviceDay]:
    """Every accelerator on every day from the first to the last, both included (days since 1970-01-01)."""
    begin, end = first_day * SECONDS_PER_DAY, (last_day + 1) * SECONDS_PER_DAY
    seen = _observed(session, cluster, begin, end)
    held = _held(session, cluster, begin, end, now)
    for device in _accelerators(session, cluster):
        for day in range(first_day, last_day + 1):
            present = present_seconds(day, device.first, device.last, now)
            length = present[1] - present[0]
            observed, busy = seen.get((device.series_id, day), (0.0, 0.0))
            allocated = covered_seconds(held[device.key], present)
            yield DeviceDay(device.key[0], device.model, day, length, min(observed, length), busy, allocated)


def _accelerators(session: Session, cluster: str | None) -> list[_Accelerator]:
    """Each accelerator that has ever had a window."""
    # A few look-ups in the keys of the tables for each series, where a GROUP BY would read them all.
    first = [_extreme(func.min, table) for table in _TABLES]
    last = [_extreme(func.max, table) for table in _TABLES]
    query = (
        select(Node.cluster, Node.name, SeriesRow.device, SeriesRow.id, NodeDevice.model, *first, *last)
        .join(Node, Node.id == SeriesRow.node_id)
        .join(NodeDevice, (NodeDevice.node_id == Node.id) & (NodeDevice.device == SeriesRow.device))
        .where(SeriesRow.metric == BUSY, NodeDevice.kind == "accelerator")
    )
    if cluster is not None:
        query = query.where(Node.cluster == cluster)
    found = []
    for cluster_, node, device, id_, model, *times in session.execute(query):
        firsts, lasts = [[t for t in part if t is not None] for part in (times[: len(_TABLES)], times[len(_TABLES) :])]
        if firsts:
            found.append(_Accelerator((cluster_, node, device), id_, model, min(firsts), max(lasts)))
    return found


def _extreme(which: Any, table: type[Window | RunWindow | Hour]) -> Any:
    return select(which(table.start_unix_seconds)).where(table.series_id == SeriesRow.id).scalar_subquery()


def _observed(
    session: Session, cluster: str | None, begin: float, end: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """(series, day) -> (seconds seen, seconds busy): from the hourly roll-ups, and from what is not in them yet."""
    series = select(SeriesRow.id).where(SeriesRow.metric == BUSY)
    if cluster is not None:
        series = series.join(Node, Node.id == SeriesRow.node_id).where(Node.cluster == cluster)
    rolled_up = horizon(session, ROLLED_UP)

    def part(table: type[Window | RunWindow | Hour], seen: Any, busy: Any, since: float, until: float) -> Any:
        time = table.start_unix_seconds
        return select(table.series_id, time.label("start"), seen.label("seen"), busy.label("busy")).where(
            table.series_id.in_(series), time >= since, time < until, table.mean.is_not(None)
        )

    parts = [
        part(table, table.duration_seconds, table.mean * table.duration_seconds, max(begin, rolled_up), end)
        for table in (Window, RunWindow)
    ]
    parts.append(part(Hour, Hour.observed_seconds, Hour.integral, begin, min(end, rolled_up)))
    rows = union_all(*parts).subquery()
    day = floor_divided(session, rows.c.start, float(SECONDS_PER_DAY)).label("day")
    query = select(rows.c.series_id, day, func.sum(rows.c.seen), func.sum(rows.c.busy)).group_by(rows.c.series_id, day)
    return {(id_, int(number)): (seen, busy or 0.0) for id_, number, seen, busy in session.execute(query)}


def _held(
    session: Session, cluster: str | None, begin: float, end: float, now: float
) -> defaultdict[DeviceKey, list[Interval]]:
    """When runs held each device. A run that has not ended holds its devices until now."""
    query = select(Run.cluster, Run.devices, Run.started_unix_seconds, Run.ended_unix_seconds).where(
        Run.started_unix_seconds < end,
        or_(Run.ended_unix_seconds.is_(None), Run.ended_unix_seconds > begin),
    )
    if cluster is not None:
        query = query.where(Run.cluster == cluster)
    held: defaultdict[DeviceKey, list[Interval]] = defaultdict(list)
    for name, devices, started, ended in session.execute(query):
        assert started is not None  # noqa: S101  the query asks for those that have started
        for device in json.loads(devices):
            held[(name, device["node"], device["id"])].append((started, now if ended is None else ended))
    return held
