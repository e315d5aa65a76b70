"""Device-days of every accelerator, from its windows and from the runs that held it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sqlalchemy import Float, cast, func, or_, select
from sqlalchemy.orm import Session

from api.store.tables import Node, NodeDevice, Run, SeriesRow, Window
from tokenstone.fleet import SECONDS_PER_DAY, DeviceDay, Interval, covered_seconds, present_seconds

BUSY = "accel_busy_ratio"
DeviceKey = tuple[str, str, str]


def device_days(
    session: Session, *, cluster: str | None, first_day: int, last_day: int, now: float
) -> Iterator[DeviceDay]:
    """Every accelerator on every day from the first to the last, both included (days since 1970-01-01)."""
    begin, end = first_day * SECONDS_PER_DAY, (last_day + 1) * SECONDS_PER_DAY
    seen = _observed(session, cluster, begin, end)
    held = _held(session, cluster, begin, end, now)
    for key, series_id, model, first, last in _accelerators(session, cluster):
        if first is None or last is None:
            continue
        for day in range(first_day, last_day + 1):
            present = present_seconds(day, first, last, now)
            length = present[1] - present[0]
            observed, busy = seen.get((series_id, day), (0.0, 0.0))
            yield DeviceDay(
                key[0], model, day, length, min(observed, length), busy, covered_seconds(held[key], present)
            )


def _accelerators(
    session: Session, cluster: str | None
) -> Sequence[tuple[DeviceKey, int, str, float | None, float | None]]:
    """Each accelerator with its series, model, and the times of its first and its last window."""
    mine = Window.series_id == SeriesRow.id
    # Two look-ups in the key of the windows for each series, where a GROUP BY would read them all.
    first = select(func.min(Window.start_unix_seconds)).where(mine).scalar_subquery()
    last = select(func.max(Window.start_unix_seconds)).where(mine).scalar_subquery()
    query = (
        select(Node.cluster, Node.name, SeriesRow.device, SeriesRow.id, NodeDevice.model, first, last)
        .join(Node, Node.id == SeriesRow.node_id)
        .join(NodeDevice, (NodeDevice.node_id == Node.id) & (NodeDevice.device == SeriesRow.device))
        .where(SeriesRow.metric == BUSY, NodeDevice.kind == "accelerator")
    )
    if cluster is not None:
        query = query.where(Node.cluster == cluster)
    return [((c, n, d), id_, model, begin, end) for c, n, d, id_, model, begin, end in session.execute(query)]


def _observed(
    session: Session, cluster: str | None, begin: float, end: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """(series, day) -> (seconds seen, seconds busy)."""
    day = func.floor(Window.start_unix_seconds / cast(SECONDS_PER_DAY, Float))
    series = select(SeriesRow.id).where(SeriesRow.metric == BUSY)
    if cluster is not None:
        series = series.join(Node, Node.id == SeriesRow.node_id).where(Node.cluster == cluster)
    query = (
        select(
            Window.series_id,
            day,
            func.sum(Window.duration_seconds),
            func.sum(Window.mean * Window.duration_seconds),
        )
        .where(
            Window.series_id.in_(series),
            Window.start_unix_seconds >= begin,
            Window.start_unix_seconds < end,
            Window.mean.is_not(None),
        )
        .group_by(Window.series_id, day)
    )
    return {(id_, int(number)): (seen, busy) for id_, number, seen, busy in session.execute(query)}


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
        for device in json.loads(devices):
            held[(name, device["node"], device["id"])].append((started, now if ended is None else ended))
    return held
