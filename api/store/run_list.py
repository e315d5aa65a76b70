"""Runs as a list for people: each with the figures of its latest evaluation, filtered, sorted, a page at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Float, cast, func, literal, or_, select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.tables import EvaluationRow, Run
from tokenstone.wire import Page

KINDS = ("training", "inference")
ORDERS = ("newest", "score", "cost", "held")
"""The newest, best, cheapest per token, or longest held first."""
_LAST = 1e18
"""Takes the place of an absent figure: such runs come last. Cursors hold no greater number."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are asked for; None is any."""

    state: str | None = None
    cluster: str | None = None
    spec_id: str | None = None
    kind: str | None = None


class RunRow(NamedTuple):
    """A run in the list. Figures are of the latest evaluation; None where there is none."""

    run_id: str
    cluster: str
    spec_id: str
    kind: str
    preset: str
    state: str
    reason: str
    devices: int
    hardware: str
    """What its first device is, as the catalogue or else the driver names it; empty where nobody said."""
    created_unix_seconds: float
    seconds: float | None
    score: float | None
    usd_per_million_tokens: float | None
    device_seconds_per_million_tokens: float | None


def page_of_run_rows(
    session: Session, wanted: RunFilter, *, order: str, cursor: str | None, limit: int
) -> Page[RunRow]:
    """Runs in one of ORDERS; absent figures come last."""
    newest = select(func.max(EvaluationRow.id)).where(EvaluationRow.run == Run.id).correlate(Run).scalar_subquery()
    query = (
        select(
            Run,
            EvaluationRow.score,
            EvaluationRow.usd_per_million_tokens,
            EvaluationRow.device_seconds_per_million_tokens,
        )
        .outerjoin(EvaluationRow, EvaluationRow.id == newest)
        .limit(limit + 1)
    )
    for column, value in ((Run.state, wanted.state), (Run.cluster, wanted.cluster), (Run.spec_id, wanted.spec_id)):
        if value is not None:
            query = query.where(column == value)
    if wanted.kind is not None:
        query = query.where(Run.spec.startswith(f'{{"kind":"{wanted.kind}"'))  # as pydantic writes a spec: kind first
    at, last = decode_cursor(cursor, float, int) if cursor is not None else (None, None)
    rank = _ranks().get(order)
    if rank is None:  # the order of the key, which needs no sorting
        query = query.add_columns(literal(0.0, Float).label("rank")).order_by(Run.id.desc())
        query = query if last is None else query.where(Run.id < last)
    else:
        query = query.add_columns(rank.label("rank")).order_by(rank, Run.id.desc())
        query = query if last is None else query.where(or_(rank > at, (rank == at) & (Run.id < last)))
    rows = session.execute(query).all()
    return make_page(rows, limit, item=_row, key=lambda row: (float(row.rank), row[0].id))


def _ranks() -> dict[str, ColumnElement[float]]:
    """What is sorted by, ascending; runs that are alike are sorted by age."""
    last = literal(_LAST, Float)
    held = cast(Run.ended_unix_seconds - Run.started_unix_seconds, Float)
    return {
        "score": func.coalesce(-EvaluationRow.score, last),
        "cost": func.coalesce(EvaluationRow.usd_per_million_tokens, last),
        "held": func.coalesce(-held, last),
    }


def _row(row: Any) -> RunRow:
    run: Run = row[0]
    spec, devices = json.loads(run.spec), json.loads(run.devices)
    began, ended = run.started_unix_seconds, run.ended_unix_seconds
    return RunRow(
        run.run_id, run.cluster, run.spec_id, spec["kind"], spec["preset"], run.state, run.reason, len(devices),
        devices[0].get("hardware") or devices[0].get("model") or "", run.created_unix_seconds,
        ended - began if began is not None and ended is not None else None, row[1], row[2], row[3],
    )  # fmt: skip


class RunGroup(NamedTuple):
    """The evaluated runs of one spec on one cluster: what compares as like with like."""

    spec_id: str
    cluster: str
    kind: str
    preset: str
    runs: int


def run_groups(session: Session, cluster: str | None) -> list[RunGroup]:
    """Groups of evaluated runs, of a cluster or of all, those with the newest run first; at most 500."""
    newest = func.max(Run.id).label("newest")
    count = func.count(EvaluationRow.run.distinct())
    query = (
        select(Run.spec_id, Run.cluster, count, newest)
        .join(EvaluationRow, EvaluationRow.run == Run.id)
        .group_by(Run.spec_id, Run.cluster)
        .order_by(newest.desc())
        .limit(500)
    )
    rows = session.execute(query if cluster is None else query.where(Run.cluster == cluster)).all()
    bodies = session.execute(select(Run.id, Run.spec).where(Run.id.in_([row.newest for row in rows]))).all()
    read = {id_: json.loads(spec) for id_, spec in bodies}
    return [RunGroup(spec_id, name, read[id_]["kind"], read[id_]["preset"], runs) for spec_id, name, runs, id_ in rows]


def runs_of_group(session: Session, spec_id: str, cluster: str, *, limit: int) -> list[str]:
    """Ids of the evaluated runs of a spec on a cluster, the newest first."""
    query = (
        select(Run.run_id)
        .where(Run.spec_id == spec_id, Run.cluster == cluster)
        .where(select(EvaluationRow.id).where(EvaluationRow.run == Run.id).exists())
        .order_by(Run.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))


def known_clusters(session: Session, cluster: str | None) -> list[str]:
    """Clusters that have runs, by name; at most a thousand, for a list to choose from."""
    query = select(Run.cluster).distinct().order_by(Run.cluster).limit(1000)
    return list(session.scalars(query if cluster is None else query.where(Run.cluster == cluster)))
