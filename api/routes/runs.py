"""The life of a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from api import examples
from api.deps import NowDep, PagingDep, StoreDep
from api.leases import check_leases
from api.openapi import EVERYWHERE, WITH_BODY, problems
from api.scoring import end_with_facts
from api.store.runs import create_run, get_run, move_run, page_of_runs, view
from tokenstone import hardware
from tokenstone.errors import Conflict, UnknownName
from tokenstone.run import RunState
from tokenstone.wire import Facts, Page, RunChange, RunCreate, RunView

router = APIRouter(prefix="/v1/runs", tags=["runs"])

_BY_FACTS = {RunState.COMPLETE, RunState.INVALID}


@router.post(
    "",
    summary="Create a run",
    status_code=201,
    responses=WITH_BODY | problems(409) | {200: {"description": "The run is there already", "model": RunView}},
)
def create(
    wanted: Annotated[RunCreate, Body(openapi_examples=examples.one(examples.RUN, "A training run on one device"))],
    store: StoreDep,
    now: NowDep,
    response: Response,
) -> RunView:
    """Idempotent by `run_id`, which the client draws: the same request again finds the run it made.

    The client keeps the run alive by any change of its state, the present one included, at least every
    `lease_seconds`; else the run is failed.
    """
    for number, device in enumerate(wanted.devices):
        if device.hardware is not None and device.hardware not in hardware.catalogue():
            where = f"body.devices.{number}.hardware"
            raise UnknownName("hardware", device.hardware, hardware.catalogue(), where=where)
    check_leases(store, now)
    with store.writing() as session:
        run, is_new = create_run(session, wanted, now=now)
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = f"/v1/runs/{run.run_id}"
        return view(run)


@router.get("", summary="List runs", responses=EVERYWHERE)
def list_runs(
    store: StoreDep,
    now: NowDep,
    paging: PagingDep,
    state: RunState | None = None,
    cluster: Annotated[str | None, Query(max_length=200)] = None,
) -> Page[RunView]:
    """Runs, the newest first."""
    check_leases(store, now)
    with store.reading() as session:
        return page_of_runs(session, state=state, cluster=cluster, cursor=paging.cursor, limit=paging.limit)


@router.get("/{run_id}", summary="Read a run", responses=EVERYWHERE | problems(404))
def read(run_id: str, store: StoreDep, now: NowDep) -> RunView:
    """One run as it stands."""
    check_leases(store, now)
    with store.reading() as session:
        return view(get_run(session, run_id))


@router.post("/{run_id}/state", summary="Move a run on, or keep it alive", responses=WITH_BODY | problems(404, 409))
def change_state(
    run_id: str,
    change: Annotated[RunChange, Body(openapi_examples=examples.one(examples.CHANGE, "Start, or stay alive"))],
    store: StoreDep,
    now: NowDep,
) -> RunView:
    """The present state again renews the lease. `complete` and `invalid` follow from the facts."""
    check_leases(store, now)
    with store.writing() as session:
        run = get_run(session, run_id, lock=True)
        if change.state in _BY_FACTS and change.state != run.state:
            raise Conflict(
                f"a run becomes {change.state} by its facts", where="body.state", hint=f"PUT /v1/runs/{run_id}/facts"
            )
        move_run(run, change.state, reason=change.reason, now=now)
        return view(run)


@router.put(
    "/{run_id}/facts",
    summary="Tell what a run did",
    status_code=201,
    responses=WITH_BODY | problems(404, 409) | {200: {"description": "Known already", "model": RunView}},
)
def put_facts(
    run_id: str,
    facts: Annotated[Facts, Body(openapi_examples=examples.one(examples.FACTS, "Training on one device"))],
    store: StoreDep,
    now: NowDep,
    response: Response,
) -> RunView:
    """Once: the run is evaluated without a price and is then complete, or invalid if its ledger does not balance."""
    check_leases(store, now)
    run, is_new = end_with_facts(store, run_id, facts, now=now)
    response.status_code = 201 if is_new else 200
    return run
