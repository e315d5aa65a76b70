"""Runs and their leases."""

from __future__ import annotations

from typing import Any, cast

from pydantic import TypeAdapter
from sqlalchemy import CursorResult, bindparam, func, select, update
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.statements import insert_new
from api.store.tables import Run, RunNode, core_table
from tokenstone.errors import Conflict, NotFound
from tokenstone.run import AnySpec, RunState, WorkloadSpec, check_transition
from tokenstone.wire import Page, RunCreate, RunDevice, RunView

_SPEC: TypeAdapter[AnySpec] = TypeAdapter(WorkloadSpec)
_DEVICES = TypeAdapter(list[RunDevice])
_OPEN = [state.value for state in RunState if not state.ended]
CLIENT_LOST = "client lost"
_ACTIVE = (  # asked with every batch of windows: made once
    select(core_table(Run).c.id)
    .join(core_table(RunNode), RunNode.run == Run.id)
    .where(Run.state.in_(_OPEN), Run.cluster == bindparam("of_cluster"), RunNode.node == bindparam("of_node"))
    .limit(1)
)


def view(run: Run) -> RunView:
    """The run as clients see it."""
    return RunView(
        run_id=run.run_id,
        cluster=run.cluster,
        spec_id=run.spec_id,
        spec=_SPEC.validate_json(run.spec),
        devices=_DEVICES.validate_json(run.devices),
        state=RunState(run.state),
        reason=run.reason,
        created_unix_seconds=run.created_unix_seconds,
        started_unix_seconds=run.started_unix_seconds,
        ended_unix_seconds=run.ended_unix_seconds,
    )


def create_run(session: Session, wanted: RunCreate, *, now: float) -> tuple[Run, bool]:
    """Make a run, or find the one that the same request made before. Returns it and whether it is new.

    Raises Conflict where another run has that id.
    """
    present = _by_id(session, wanted.run_id)
    if present is None:
        insert_new(session, Run, [_values(wanted, now)])
        run = get_run(session, wanted.run_id)
        nodes = sorted({device.node for device in wanted.devices})
        insert_new(session, RunNode, [{"run": run.id, "node": node} for node in nodes])
        return run, True
    if _request(present) != wanted:
        raise Conflict(
            f"run {wanted.run_id} exists and is another one", where="run_id", hint="draw a new run_id for each run"
        )
    return present, False


def _by_id(session: Session, run_id: str, *, lock: bool = False) -> Run | None:
    query = select(Run).where(Run.run_id == run_id)
    return session.scalar(query.with_for_update() if lock else query)


def _values(wanted: RunCreate, now: float) -> dict[str, Any]:
    return {
        "run_id": wanted.run_id,
        "cluster": wanted.cluster,
        "spec_id": wanted.spec.spec_id,
        "spec": wanted.spec.model_dump_json(),
        "devices": _DEVICES.dump_json(wanted.devices).decode(),
        "state": RunState.CREATED.value,
        "reason": "",
        "lease_seconds": wanted.lease_seconds,
        "seen_unix_seconds": now,
        "created_unix_seconds": now,
        "started_unix_seconds": None,
        "ended_unix_seconds": None,
    }


def _request(run: Run) -> RunCreate:
    return RunCreate(
        run_id=run.run_id,
        cluster=run.cluster,
        spec=_SPEC.validate_json(run.spec),
        devices=_DEVICES.validate_json(run.devices),
        lease_seconds=run.lease_seconds,
    )


def get_run(session: Session, run_id: str, *, lock: bool = False) -> Run:
    """Find a run; raises NotFound. `lock`: nobody else changes it before this session ends."""
    run = _by_id(session, run_id, lock=lock)
    if run is None:
        raise NotFound(f"there is no run {run_id!r}", where="run_id", hint="GET /v1/runs lists them")
    return run


def page_of_runs(
    session: Session,
    *,
    state: RunState | None,
    cluster: str | None,
    spec_id: str | None,
    cursor: str | None,
    limit: int,
) -> Page[RunView]:
    """Runs, the newest first."""
    query = select(Run).order_by(Run.id.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(Run.state == state.value)
    if cluster is not None:
        query = query.where(Run.cluster == cluster)
    if spec_id is not None:
        query = query.where(Run.spec_id == spec_id)
    if cursor is not None:
        query = query.where(Run.id < decode_cursor(cursor, int)[0])
    return make_page(session.scalars(query).all(), limit, item=view, key=lambda run: (run.id,))


def move_run(run: Run, state: RunState, *, reason: str, now: float) -> None:
    """Move a run on, or with its present state renew its lease; raises Conflict for an impossible step."""
    if state != run.state:
        check_transition(run.run_id, RunState(run.state), state)
        run.state, run.reason = state.value, reason
        if state is RunState.RUNNING:
            run.started_unix_seconds = now
        if state.ended:
            run.ended_unix_seconds = now
    run.seen_unix_seconds = now


def fail_silent_runs(session: Session, *, now: float) -> int:
    """Fail the runs whose lease has run out; return how many."""
    statement = (
        update(Run)
        .where(*_silent(now))
        .values(
            state=RunState.FAILED.value,
            reason=CLIENT_LOST,
            ended_unix_seconds=Run.seen_unix_seconds + Run.lease_seconds,
        )
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def has_silent_runs(session: Session, *, now: float) -> bool:
    """Say whether a run's lease has run out and nobody has failed it yet."""
    return session.scalar(select(Run.id).where(*_silent(now)).limit(1)) is not None


def _silent(now: float) -> tuple[Any, ...]:
    return Run.state.in_(_OPEN), Run.seen_unix_seconds + Run.lease_seconds < now


def is_active_on(session: Session, cluster: str, node: str) -> bool:
    """Say whether a run that has not ended has devices on that node."""
    return session.scalar(_ACTIVE, {"of_cluster": cluster, "of_node": node}) is not None


def count_by_state(session: Session) -> list[tuple[str, str, int]]:
    """How many runs there are, by cluster and state."""
    query = select(Run.cluster, Run.state, func.count()).group_by(Run.cluster, Run.state)
    return [
        (cluster, state, count) for cluster, state, count in session.execute(query.order_by(Run.cluster, Run.state))
    ]
