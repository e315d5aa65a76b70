"""Reports on one or several runs, as data and as a page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from api.access import run_of
from api.auth import Caller, Reader
from api.deps import NowDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, problems
from api.pages import PAGE_HEADERS
from api.pages.compare import Picked, compare_html
from api.pages.render import report_html
from api.routes.comparisons import Side, compare
from api.routes.pages import cluster_page_html
from api.scoring import evaluation_of
from api.store.engine import Store
from tokenstone.errors import Conflict, InvalidValue
from tokenstone.evaluate import Evaluation
from tokenstone.report import Report, build_report
from tokenstone.wire import RunView

router = APIRouter(prefix="/v1/reports", tags=["results"], responses=problems(404, 409))

Runs = Annotated[list[str], Query(alias="run", min_length=1, max_length=50, description="Ids of runs of one cluster.")]


@router.get("", summary="Report on runs", responses=GUARDED)
def report(runs: Runs, caller: Reader, store: StoreDep, now: NowDep) -> Report:
    """The figures of each run and those they have together, by their latest evaluations."""
    return _report(runs, caller, store, now)


@router.get(
    "/html",
    summary="Report on runs, as a page",
    response_class=HTMLResponse,
    responses=GUARDED | {200: {"description": "A page that needs nothing else", "content": {"text/html": {}}}},
)
def report_page(runs: Runs, caller: Reader, store: StoreDep, now: NowDep) -> HTMLResponse:
    """The same report for people: one file without scripts."""
    return HTMLResponse(report_html(_report(runs, caller, store, now)), headers=PAGE_HEADERS)


@router.get(
    "/comparison/html",
    summary="Compare runs with runs, as a page",
    response_class=HTMLResponse,
    responses=GUARDED | {200: {"description": "A page that needs nothing else", "content": {"text/html": {}}}},
)
def comparison_file(a: Side, b: Side, caller: Reader, store: StoreDep, now: NowDep) -> HTMLResponse:
    """What GET /v1/comparisons says, for people: one file without scripts."""
    comparison = compare(a, b, caller, store, now)
    return HTMLResponse(compare_html(None, [], Picked(runs_a=a, runs_b=b), comparison=comparison), headers=PAGE_HEADERS)


@router.get(
    "/cluster/html",
    summary="Report on a cluster, as a page",
    response_class=HTMLResponse,
    responses=GUARDED | {200: {"description": "A page that needs nothing else", "content": {"text/html": {}}}},
)
def cluster_file(
    cluster: Annotated[str, Query(max_length=200)], caller: Reader, store: StoreDep, now: NowDep
) -> HTMLResponse:
    """What its tokens cost by its latest runs, how its last seven days were spent, and its nodes."""
    return HTMLResponse(cluster_page_html(None, cluster, caller, store, now), headers=PAGE_HEADERS)


def _report(run_ids: list[str], caller: Caller, store: Store, now: float) -> Report:
    check_leases(store, now)
    with store.reading() as session:
        evaluated = [evaluation_of(session, run_of(session, caller, run_id)) for run_id in dict.fromkeys(run_ids)]
    _check_together(evaluated)
    return build_report(evaluated, created_unix_seconds=now)


def _check_together(evaluated: list[tuple[RunView, Evaluation]]) -> None:
    """Raise InvalidValue or Conflict for runs whose figures cannot stand on one bill."""
    clusters = {run.cluster for run, _ in evaluated}
    if len(clusters) > 1:
        raise InvalidValue(f"runs of {len(clusters)} clusters in one report", where="query.run", hint="ask for each")
    bills = [evaluation.bill for _, evaluation in evaluated if evaluation.bill is not None]
    if any(bill.price != bills[0].price for bill in bills):
        raise Conflict(
            "the runs are scored with different prices",
            where="query.run",
            hint="score them with one price: POST /v1/runs/{run_id}/scores",
        )
