"""What runs did, and every evaluation of it."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.runs import view
from api.store.tables import EvaluationRow, Run, RunFacts
from api.views import Scored
from tokenstone.errors import NotFound
from tokenstone.evaluate import Evaluation
from tokenstone.wire import Facts, InferenceFacts, Page, RunView, TrainingFacts

_FACTS: TypeAdapter[TrainingFacts | InferenceFacts] = TypeAdapter(Facts)


def find_facts(session: Session, run: Run) -> TrainingFacts | InferenceFacts | None:
    """The facts of a run, or None where they have not come."""
    row = session.get(RunFacts, run.id)
    return None if row is None else _FACTS.validate_json(row.body)


def add_facts(session: Session, run: Run, facts: TrainingFacts | InferenceFacts, *, now: float) -> None:
    """Keep the facts of a run that has none."""
    started = facts.started_unix_seconds
    session.add(
        RunFacts(
            run=run.id,
            received_unix_seconds=now,
            started_unix_seconds=started,
            ended_unix_seconds=started + facts.allocated_seconds,
            body=facts.model_dump_json(),
        )
    )


class PricedBy(NamedTuple):
    """What an evaluation was priced by: a row of a version of a book, or a figure given by hand."""

    usd_per_device_hour: float | None = None
    price_book: str | None = None
    price_row: str | None = None


UNPRICED = PricedBy()


def add_evaluation(
    session: Session, run: Run, evaluation: Evaluation, priced_by: PricedBy = UNPRICED, *, now: float
) -> Scored:
    """Append an evaluation; those before it stay."""
    bill = evaluation.bill
    row = EvaluationRow(
        run=run.id,
        created_unix_seconds=now,
        inputs_hash=evaluation.inputs_hash,
        score=evaluation.score,
        usd_per_million_tokens=bill.usd_per_million_tokens if bill else None,
        device_seconds_per_million_tokens=bill.device_seconds_per_million_tokens if bill else None,
        body=evaluation.model_dump_json(),
        **priced_by._asdict(),
    )
    session.add(row)
    session.flush()
    return _scored(row)


def latest_evaluation(session: Session, run: Run) -> Evaluation | None:
    """The evaluation that counts now, or None where there is none."""
    query = select(EvaluationRow.body).where(EvaluationRow.run == run.id).order_by(EvaluationRow.id.desc()).limit(1)
    body = session.scalar(query)
    return None if body is None else Evaluation.model_validate_json(body)


def page_of_evaluations(session: Session, run: Run, *, cursor: str | None, limit: int) -> Page[Scored]:
    """All evaluations of a run, the newest first."""
    query = select(EvaluationRow).where(EvaluationRow.run == run.id)
    if cursor is not None:
        query = query.where(EvaluationRow.id < decode_cursor(cursor, int)[0])
    rows = session.scalars(query.order_by(EvaluationRow.id.desc()).limit(limit + 1)).all()
    return make_page(rows, limit, item=_scored, key=lambda row: (row.id,))


def get_evaluation(session: Session, run: Run, number: int) -> Scored:
    """One evaluation of a run; raises NotFound."""
    row = session.get(EvaluationRow, number) if number < 2**63 else None
    if row is None or row.run != run.id:
        raise NotFound(
            f"run {run.run_id} has no score {number}", where="number", hint=f"GET /v1/runs/{run.run_id}/scores"
        )
    return _scored(row)


def _scored(row: EvaluationRow) -> Scored:
    evaluation = Evaluation.model_validate_json(row.body)
    return Scored(
        number=row.id,
        created_unix_seconds=row.created_unix_seconds,
        schema_version=evaluation.schema_version,
        inputs_hash=row.inputs_hash,
        validity=evaluation.validity,
        usd_per_device_hour=row.usd_per_device_hour,
        price_book=row.price_book,
        price_row=row.price_row,
        evaluation=evaluation,
    )


class SpecFigures(NamedTuple):
    """The latest figures of one spec on one cluster, and the run that they are of."""

    run: RunView
    score: float | None
    usd_per_million_tokens: float | None
    device_seconds_per_million_tokens: float | None


def latest_by_spec(session: Session) -> list[SpecFigures]:
    """For each cluster and spec, the latest evaluation of the latest run that has one."""
    newest_run = (
        select(func.max(EvaluationRow.run).label("run"))
        .join(Run, Run.id == EvaluationRow.run)
        .group_by(Run.cluster, Run.spec_id)
        .subquery()
    )
    newest = (
        select(func.max(EvaluationRow.id).label("id"))
        .join(newest_run, newest_run.c.run == EvaluationRow.run)
        .group_by(EvaluationRow.run)
        .subquery()
    )
    query = (
        select(
            Run,
            EvaluationRow.score,
            EvaluationRow.usd_per_million_tokens,
            EvaluationRow.device_seconds_per_million_tokens,
        )
        .join(EvaluationRow, EvaluationRow.run == Run.id)
        .join(newest, newest.c.id == EvaluationRow.id)
        .order_by(Run.cluster, Run.spec_id)
    )
    return [SpecFigures(view(run), *figures) for run, *figures in session.execute(query)]
