"""The latest evaluation of each of the newest runs, without its body: for what is asked of again and again."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.store.runs import view
from api.store.tables import EvaluationRow, Run
from tokenstone.evaluate import Evaluation
from tokenstone.wire import RunView


class Latest(NamedTuple):
    """The latest evaluation of a run, by its number, and the figures that are columns of it."""

    run: RunView
    number: int
    score: float | None
    usd_per_million_tokens: float | None
    device_seconds_per_million_tokens: float | None


def newest_evaluation(session: Session) -> int:
    """Number of the evaluation that was added last, 0 where there is none: a higher one says that there is news."""
    return session.scalar(select(func.max(EvaluationRow.id))) or 0


def latest_evaluations(session: Session, *, each: int, most: int) -> list[Latest]:
    """The latest evaluation of each of the newest runs, the newest run first; bodies are not read.

    At most `each` runs of a spec on a cluster, and `most` in all.
    """
    newest = select(func.max(EvaluationRow.id).label("id"), EvaluationRow.run).group_by(EvaluationRow.run).subquery()
    rank = func.row_number().over(partition_by=(Run.cluster, Run.spec_id), order_by=Run.id.desc()).label("rank")
    ranked = select(newest.c.id, newest.c.run, rank).join(Run, Run.id == newest.c.run).subquery()
    query = (
        select(
            Run,
            EvaluationRow.id,
            EvaluationRow.score,
            EvaluationRow.usd_per_million_tokens,
            EvaluationRow.device_seconds_per_million_tokens,
        )
        .join(ranked, ranked.c.run == Run.id)
        .join(EvaluationRow, EvaluationRow.id == ranked.c.id)
        .where(ranked.c.rank <= each)
        .order_by(Run.id.desc())
        .limit(most)
    )
    return [Latest(view(run), number, *figures) for run, number, *figures in session.execute(query)]


def evaluation_of(session: Session, number: int) -> Evaluation:
    """The evaluation of that number, which is there."""
    return Evaluation.model_validate_json(
        session.scalars(select(EvaluationRow.body).where(EvaluationRow.id == number)).one()
    )
