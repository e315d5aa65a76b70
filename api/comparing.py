"""From the ids of runs to a comparison: what the store knows of each run, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from api.access import run_of
from api.auth import Caller
from api.scoring import AnyFacts, why_no_facts
from api.store.engine import Session
from api.store.evaluations import find_facts, latest_evaluation
from api.store.runs import view
from tokenstone.compare import Comparison, LeftOut, Side, compare_sides, make_side, run_figures
from tokenstone.compare.published import PREFIX, find_published
from tokenstone.compare.side import published_side
from tokenstone.errors import InvalidValue, NotFound
from tokenstone.evaluate import Evaluation
from tokenstone.wire import InferenceFacts, RunView

MOST_REQUESTS = 200_000
"""Requests of all runs together beyond which no curves are drawn: reading them would take seconds."""


@dataclass
class _Found:
    """What the runs of both sides have beside their figures."""

    facts: dict[str, InferenceFacts] = field(default_factory=dict)
    output_seconds: dict[str, float] = field(default_factory=dict)
    requests: int = 0

    def add(self, evaluation: Evaluation, facts: AnyFacts | None) -> None:
        """Keep what a curve needs."""
        if isinstance(facts, InferenceFacts) and evaluation.output_bill is not None:
            self.facts[evaluation.run_id] = facts
            self.output_seconds[evaluation.run_id] = evaluation.output_bill.device_seconds


def compare_runs_of(session: Session, caller: Caller, a: Sequence[str], b: Sequence[str], *, now: float) -> Comparison:
    """Compare the runs b with the runs a, by their ids; a side may be one published result, `published:KEY`.

    Runs without figures are left out, with the reason. Raises NotFound for a run that is not there and for a side
    without any figures, InvalidValue for a side of several clusters and a run on both.
    """
    found = _Found()
    sides = [_side(session, caller, list(dict.fromkeys(ids)), f"query.{name}", found)
             for name, ids in (("a", a), ("b", b))]  # fmt: skip
    return compare_sides(
        *sides,
        facts=found.facts,
        output_seconds=found.output_seconds,
        created_unix_seconds=now,
        reproduce=[f"tokenstone compare {','.join(a)} {','.join(b)}"],
    )


def compare_evaluations(a: Sequence[tuple[RunView, Evaluation]], b: Sequence[tuple[RunView, Evaluation]]) -> Comparison:
    """Compare evaluated runs."""
    return compare_sides(
        make_side([run_figures(*each) for each in a], where="query.a"),
        make_side([run_figures(*each) for each in b], where="query.b"),
    )


def _side(session: Session, caller: Caller, ids: list[str], where: str, found: _Found) -> Side:
    published = [name for name in ids if name.startswith(PREFIX)]
    if published:
        if len(ids) > 1:
            raise InvalidValue("a published result stands alone on its side", where=where, hint="name it alone")
        return published_side(find_published(published[0]))
    figures, left_out = [], []
    for run_id in ids:
        run = run_of(session, caller, run_id)
        evaluation = latest_evaluation(session, run)
        if evaluation is None:
            reason = f" ({run.reason})" if run.reason else ""
            left_out.append(
                LeftOut(run_id=run_id, reason=f"it is {run.state}{reason} and has no score: {why_no_facts(run.state)}")
            )
            continue
        figures.append(run_figures(view(run), evaluation))
        found.requests += evaluation.requests or 0
        if evaluation.kind == "inference" and found.requests <= MOST_REQUESTS:
            found.add(evaluation, find_facts(session, run))
    if not figures:
        raise NotFound(
            f"no run of this side has figures: {'; '.join(f'run {out.run_id}: {out.reason}' for out in left_out)}",
            where=where,
            hint="name a run that is complete",
        )
    return make_side(figures, left_out=left_out, where=where)
