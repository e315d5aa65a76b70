"""Windows in steps of time: what a graph shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Double, cast, func, select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.tables import Node, SeriesRow, Window
from api.views import Points
from tokenstone.wire import Page


class Aggregation(StrEnum):
    """How the windows of a step become one value."""

    MEAN = "mean"
    """Gauges: by duration."""
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    """Counters: what was added."""
    RATE = "rate"
    """Counters: what was added, per second that windows cover."""


_WEIGHTED = func.sum(Window.mean * Window.duration_seconds)
_COVERED = func.sum(Window.duration_seconds)
_VALUES: dict[Aggregation, ColumnElement[Any]] = {
    Aggregation.MEAN: _WEIGHTED / func.nullif(_COVERED, 0),
    Aggregation.MIN: func.min(Window.minimum),
    Aggregation.MAX: func.max(Window.maximum),
    Aggregation.SUM: func.sum(Window.delta),
    Aggregation.RATE: func.sum(Window.delta) / func.nullif(_COVERED, 0),
}


@dataclass(frozen=True, slots=True)
class StepQuery:
    """Series of one metric from `start` (included) to `end` (not), in steps that are multiples of `step` from 1970."""

    metric: str
    start: float
    end: float
    step: float
    aggregation: Aggregation
    cluster: str | None = None
    node: str | None = None
    device: str | None = None

    @property
    def first(self) -> float:
        """Begin of the first step."""
        return math.floor(self.start / self.step) * self.step


def page_of_points(session: Session, wanted: StepQuery, *, cursor: str | None, limit: int) -> Page[Points]:
    """Series in the order in which they were first seen, each with its steps."""
    query = (
        select(SeriesRow.id, Node.cluster, Node.name, SeriesRow.device, SeriesRow.metric, SeriesRow.labels)
        .join(Node, Node.id == SeriesRow.node_id)
        .where(SeriesRow.metric == wanted.metric)
        .order_by(SeriesRow.id)
        .limit(limit + 1)
    )
    for column, value in ((Node.cluster, wanted.cluster), (Node.name, wanted.node), (SeriesRow.device, wanted.device)):
        if value is not None:
            query = query.where(column == value)
    if cursor is not None:
        query = query.where(SeriesRow.id > decode_cursor(cursor, int)[0])
    series = session.execute(query).all()
    steps = _steps(session, [row[0] for row in series[:limit]], wanted)
    return make_page(series, limit, item=lambda row: _points(row, steps.get(row[0], []), wanted), key=lambda r: (r[0],))


def _steps(session: Session, ids: Sequence[int], wanted: StepQuery) -> dict[int, list[Any]]:
    number = func.floor((Window.start_unix_seconds - wanted.first) / cast(wanted.step, Double))
    query = (
        select(Window.series_id, number, _VALUES[wanted.aggregation], _COVERED)
        .where(
            Window.series_id.in_(ids),
            Window.start_unix_seconds >= wanted.start,
            Window.start_unix_seconds < wanted.end,
        )
        .group_by(Window.series_id, number)
        .order_by(Window.series_id, number)
    )
    steps: dict[int, list[Any]] = {}
    for id_, *step in session.execute(query):
        steps.setdefault(id_, []).append(step)
    return steps


def _points(series: Any, steps: list[Any], wanted: StepQuery) -> Points:
    return Points(
        cluster=series[1],
        node=series[2],
        device=series[3],
        metric=series[4],
        labels=json.loads(series[5]),
        start_unix_seconds=[wanted.first + number * wanted.step for number, _, _ in steps],
        value=[value for _, value, _ in steps],
        covered_seconds=[covered for _, _, covered in steps],
    )
