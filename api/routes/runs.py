"""The life of a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response

from api import examples
from api.access import facts_of, run_of
from api.auth import Ingester, Reader
from api.conditional import NOT_MODIFIED, immutable
from api.deps import NowDep, PagingDep, SettingsDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, WITH_BODY, problems
from api.phases import page_of_phases
from api.plausible import check_started
from api.scoring import end_with_facts
from api.store.runs import create_run, move_run, page_of_runs, view
from api.views import PhaseView
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
    caller: Ingester,
    store: StoreDep,
    now: NowDep,
    response: Response,
) -> RunView:
    """Idempotent by `run_id`, which the client draws: the same request again finds the run it made.

    The client keeps the run alive by any change of its state, the present one included, at least every
    `lease_seconds`; else the run is failed.
    """
    caller.check_cluster(wanted.cluster, "body.cluster")
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


@router.get("", summary="List runs", responses=GUARDED)
def list_runs(
    caller: Reader,
    store: StoreDep,
    now: NowDep,
    paging: PagingDep,
    state: RunState | None = None,
    cluster: Annotated[str | None, Query(max_length=200)] = None,
    spec_id: Annotated[str | None, Query(max_length=200)] = None,
) -> Page[RunView]:
    """Runs, the newest first."""
    mine = caller.cluster_of_list(cluster)
    check_leases(store, now)
    with store.reading() as session:
        return page_of_runs(
            session, state=state, cluster=mine, spec_id=spec_id, cursor=paging.cursor, limit=paging.limit
        )


@router.get("/{run_id}", summary="Read a run", responses=GUARDED | problems(404))
def read(run_id: str, caller: Reader, store: StoreDep, now: NowDep) -> RunView:
    """One run as it stands."""
    check_leases(store, now)
    with store.reading() as session:
        return view(run_of(session, caller, run_id))


@router.get(
    "/{run_id}/facts",
    summary="Read what a run did",
    response_model=Facts,
    responses=GUARDED | problems(404) | NOT_MODIFIED,
)
def read_facts(run_id: str, caller: Reader, store: StoreDep, request: Request) -> Response:
    """The facts as the workload told them; they never change."""
    with store.reading() as session:
        return immutable(request, facts_of(session, run_of(session, caller, run_id)))


@router.get("/{run_id}/phases", summary="List the phases of a run", responses=GUARDED | problems(404))
def list_phases(run_id: str, caller: Reader, store: StoreDep, paging: PagingDep) -> Page[PhaseView]:
    """Named intervals of each device, in order of time, from the facts of the run."""
    with store.reading() as session:
        facts = facts_of(session, run_of(session, caller, run_id))
    return page_of_phases(facts, cursor=paging.cursor, limit=paging.limit)


@router.post("/{run_id}/state", summary="Move a run on, or keep it alive", responses=WITH_BODY | problems(404, 409))
def change_state(
    run_id: str,
    caller: Ingester,
    change: Annotated[RunChange, Body(openapi_examples=examples.one(examples.CHANGE, "Start, or stay alive"))],
    store: StoreDep,
    now: NowDep,
) -> RunView:
    """The present state again renews the lease. `complete` and `invalid` follow from the facts."""
    check_leases(store, now)
    with store.writing() as session:
        run = run_of(session, caller, run_id, lock=True)
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
    caller: Ingester,
    facts: Annotated[Facts, Body(openapi_examples=examples.one(examples.FACTS, "Training on one device"))],
    store: StoreDep,
    now: NowDep,
    settings: SettingsDep,
    response: Response,
) -> RunView:
    """Once: the run is evaluated without a price and is then complete, or invalid if its ledger does not balance."""
    check_started(facts, settings, now=now)
    with store.reading() as session:
        run_of(session, caller, run_id)
    check_leases(store, now)
    run, is_new = end_with_facts(store, run_id, facts, now=now)
    response.status_code = 201 if is_new else 200
    return run
