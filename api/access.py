"""Runs as a caller may see them."""

from __future__ import annotations

from api.auth import Caller
from api.scoring import AnyFacts, why_no_facts
from api.store.engine import Session
from api.store.evaluations import find_facts
from api.store.runs import get_run
from api.store.tables import Run
from tokenstone.errors import NotFound


def run_of(session: Session, caller: Caller, run_id: str, *, lock: bool = False) -> Run:
    """Find a run; raises NotFound, and NotAllowed for one of a cluster that is not the caller's."""
    run = get_run(session, run_id, lock=lock)
    caller.check_cluster(run.cluster, "run_id")
    return run


def facts_of(session: Session, run: Run) -> AnyFacts:
    """The facts of a run; raises NotFound that says why there are none."""
    facts = find_facts(session, run)
    if facts is None:
        raise NotFound(
            f"run {run.run_id} is {run.state} and has no facts", where="run_id", hint=why_no_facts(run.state)
        )
    return facts
