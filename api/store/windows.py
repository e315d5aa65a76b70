"""Queries of windows: one series after the other, as they are or merged over time steps or over a whole cluster.

Every query names its series first and then reads each in the order of the key (series, start), so it touches the rows
that it answers and no others, however many are stored. Windows lie in two tables, those of runs that were moved away
from the others in one of their own; a window is never in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Subquery, and_, func, or_, select, union_all
from sqlalchemy.orm import Session

from api.store.horizons import ROLLED_UP, horizon
from api.store.paging import decode_cursor, make_page
from api.store.statements import floor_divided
from api.store.tables import ClusterHour, Hour, Node, Run, RunNode, RunWindow, SeriesRow, Window
from tokenstone.errors import InvalidValue
from tokenstone.wire import Page, WindowRow

HOUR = 3600.0
LONGEST_WINDOW_SECONDS = 3600.0
"""A window that starts this long before a run can still reach into it: agents make none that are longer."""
ALL = "*"
"""Stands for every node and every device in the rows of a cluster."""
LAST_MOMENT = 1e11

Aggregation = Literal["series", "cluster"]
_FIRST_CHUNK, _LARGEST_CHUNK = 8, 512


@dataclass(frozen=True, slots=True)
class SeriesSelector:
    """Which series are asked for; None is any."""

    cluster: str | None = None
    node: str | None = None
    device: str | None = None
    metric: str | None = None


class _Series(NamedTuple):
    id: int
    node: str
    device: str
    metric: str
    labels: str


def query_windows(
    session: Session,
    selector: SeriesSelector,
    start: float | None,
    end: float | None,
    step_seconds: float | None,
    aggregation: Aggregation,
    limit: int,
    cursor: str | None,
) -> Page[WindowRow]:
    """Windows that start from `start` on and before `end` (Unix seconds), by series and, within one, by time.

    With `step_seconds`, those that start in the same step (steps count from 1970) are one row: its duration and count
    are sums, its mean is weighted by counts, its delta the sum of deltas. Steps of whole hours come from the hourly
    roll-ups, which are kept for ever. `aggregation="cluster"` merges all series of a metric in `selector.cluster`; it
    comes from the roll-ups too and takes steps of whole hours. Raises InvalidValue where the arguments do not fit.
    """
    begin, end = start or 0.0, LAST_MOMENT if end is None else end
    step_seconds = None if step_seconds is None else float(step_seconds)
    if aggregation == "cluster":
        return _of_cluster(session, selector, begin, end, step_seconds, limit, cursor)
    after = None if cursor is None else decode_cursor(cursor, int, float)
    rows: list[tuple[_Series, Any]] = []
    if after is not None:
        # Rows are told apart by the start of their step: what follows begins with the next one.
        first = float(after[1]) + (step_seconds or 0.0)
        resumed = _chunk(session, selector, at=int(after[0]))
        rows += _rows(session, resumed, first, end, step_seconds, limit + 1, after=after if not step_seconds else None)
    for chunk in _chunks(session, selector, after=int(after[0]) if after else -1):
        if len(rows) > limit:
            break
        rows += _rows(session, chunk, begin, end, step_seconds, limit + 1 - len(rows))
    return make_page(rows, limit, item=_view, key=lambda row: (row[0].id, float(row[1].start)))


def windows_of_run(session: Session, run: Run, *, start: float, end: float) -> list[WindowRow]:
    """Windows of the run's nodes that may lie between `start` and `end`, in a fixed order."""
    nodes = select(Node.id).where(
        Node.cluster == run.cluster, Node.name.in_(select(RunNode.node).where(RunNode.run == run.id))
    )
    query = select(*_SERIES).join(Node, Node.id == SeriesRow.node_id).where(SeriesRow.node_id.in_(nodes))
    series = [_Series(*row) for row in session.execute(query.order_by(SeriesRow.id))]
    found: list[WindowRow] = []
    for first in range(0, len(series), _LARGEST_CHUNK):
        chunk = series[first : first + _LARGEST_CHUNK]
        # Ends are included: a window may begin at the very end.
        rows = _rows(session, chunk, start - LONGEST_WINDOW_SECONDS, end, None, None, inclusive=True)
        found += [_view(row) for row in rows]
    return found


_SERIES = (SeriesRow.id, Node.name, SeriesRow.device, SeriesRow.metric, SeriesRow.labels)


def _selected(session: Session, selector: SeriesSelector) -> Any:
    query = select(*_SERIES).join(Node, Node.id == SeriesRow.node_id).order_by(SeriesRow.id)
    if selector.node is not None:
        # Found first, because then the series are looked up by node and not searched for.
        nodes = select(Node.id).where(Node.name == selector.node)
        query = query.where(SeriesRow.node_id.in_(session.scalars(nodes).all()))
    for column, value in (
        (Node.cluster, selector.cluster),
        (SeriesRow.device, selector.device),
        (SeriesRow.metric, selector.metric),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


def _chunk(session: Session, selector: SeriesSelector, *, at: int) -> list[_Series]:
    return [_Series(*row) for row in session.execute(_selected(session, selector).where(SeriesRow.id == at))]


def _chunks(session: Session, selector: SeriesSelector, *, after: int) -> Iterator[list[_Series]]:
    """The selected series in order, a few first and then more: mostly the first few fill the page."""
    query, size = _selected(session, selector), _FIRST_CHUNK
    while True:
        found = [_Series(*row) for row in session.execute(query.where(SeriesRow.id > after).limit(size))]
        if found:
            yield found
        if len(found) < size:
            return
        after, size = found[-1].id, min(2 * size, _LARGEST_CHUNK)


def _rows(
    session: Session,
    chunk: Sequence[_Series],
    begin: float,
    end: float,
    step: float | None,
    limit: int | None,
    *,
    after: Sequence[Any] | None = None,
    inclusive: bool = False,
) -> list[tuple[_Series, Any]]:
    """The windows or steps of some series, in order."""
    by_id = {series.id: series for series in chunk}
    if not by_id or (limit is not None and limit <= 0):
        return []
    stored = _stored(session, list(by_id), begin, end, step, after, inclusive)
    if step is None:
        query = select(stored).order_by(stored.c.series_id, stored.c.start)
    else:
        bucket = (floor_divided(session, stored.c.start, step) * step).label("start")
        query = (
            select(stored.c.series_id, bucket, *merged(stored.c))
            .group_by(stored.c.series_id, bucket)
            .order_by(stored.c.series_id, bucket)
        )
    return [(by_id[row.series_id], row) for row in session.execute(query.limit(limit))]


def _stored(
    session: Session,
    ids: list[int],
    begin: float,
    end: float,
    step: float | None,
    after: Sequence[Any] | None,
    inclusive: bool,
) -> Subquery:
    """The rows to answer from: both tables of windows, or the hours and what is not in them yet."""

    def part(table: type[Window | RunWindow | Hour], duration: Any, since: float, until: float) -> Any:
        time = table.start_unix_seconds
        where = [table.series_id.in_(ids), time >= since, time <= until if inclusive else time < until]
        if after is not None:
            where.append(time > after[1])
        return select(
            table.series_id, time.label("start"), duration.label("duration"), table.count.label("count"),
            table.mean, table.minimum, table.maximum, table.delta,
        ).where(*where)  # fmt: skip

    rolled_up = horizon(session, ROLLED_UP) if step is not None and step % HOUR == 0 else 0.0
    fresh = max(begin, rolled_up)
    parts = [part(table, table.duration_seconds, fresh, end) for table in (Window, RunWindow)]
    if begin < rolled_up:
        parts.append(part(Hour, Hour.observed_seconds, begin, min(end, rolled_up)))
    return union_all(*parts).subquery()


def merged(column: Any) -> tuple[ColumnElement[Any], ...]:
    """Windows or hours merged into one: sums, a mean weighted by counts, extremes."""
    weights = func.sum(column.count).filter(column.mean.is_not(None))
    return (
        func.sum(column.duration).label("duration"),
        func.sum(column.count).label("count"),
        (func.sum(column.mean * column.count) / weights).label("mean"),
        func.min(column.minimum).label("minimum"),
        func.max(column.maximum).label("maximum"),
        func.sum(column.delta).label("delta"),
    )


def _view(found: tuple[_Series, Any]) -> WindowRow:
    series, row = found
    return WindowRow(
        node=series.node, device=series.device, metric=series.metric, labels=json.loads(series.labels),
        start_unix_seconds=row.start, duration_seconds=row.duration, count=int(row.count), mean=row.mean,
        minimum=row.minimum, maximum=row.maximum, delta=row.delta,
    )  # fmt: skip


def _of_cluster(
    session: Session,
    selector: SeriesSelector,
    begin: float,
    end: float,
    step: float | None,
    limit: int,
    cursor: str | None,
) -> Page[WindowRow]:
    """Rows of a cluster's metrics, by metric and time, out of the hourly roll-ups."""
    if selector.cluster is None or selector.node is not None or selector.device is not None:
        raise InvalidValue("a cluster's rows are of one cluster, all its nodes and devices", where="query.aggregation",
                           hint="give cluster, and neither node nor device")  # fmt: skip
    if step is None or step % HOUR:
        raise InvalidValue("a cluster's rows take steps of whole hours", where="query.step", hint="give 3600, or 86400")
    hours = select(
        ClusterHour.metric, ClusterHour.start_unix_seconds.label("start"),
        ClusterHour.observed_seconds.label("duration"), ClusterHour.count.label("count"), ClusterHour.mean,
        ClusterHour.minimum, ClusterHour.maximum, ClusterHour.delta,
    ).where(
        ClusterHour.cluster == selector.cluster,
        ClusterHour.start_unix_seconds >= begin, ClusterHour.start_unix_seconds < end,
    )  # fmt: skip
    if selector.metric is not None:
        hours = hours.where(ClusterHour.metric == selector.metric)
    rows = hours.subquery()
    bucket = (floor_divided(session, rows.c.start, step) * step).label("start")
    query = select(rows.c.metric, bucket, *merged(rows.c)).group_by(rows.c.metric, bucket)
    if cursor is not None:
        metric, start = decode_cursor(cursor, str, float)
        query = query.where(
            or_(rows.c.metric > metric, and_(rows.c.metric == metric, rows.c.start >= float(start) + step))
        )
    found = session.execute(query.order_by(rows.c.metric, bucket).limit(limit + 1)).all()
    pairs = [(_Series(0, ALL, ALL, row.metric, "{}"), row) for row in found]
    return make_page(pairs, limit, item=_view, key=lambda pair: (pair[0].metric, float(pair[1].start)))
