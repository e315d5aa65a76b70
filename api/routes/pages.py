"""The service in a browser: clusters, runs, fleet. Each page has a stable address and needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import TypeAdapter, ValidationError

from api.access import run_of
from api.auth import Caller, Reader
from api.deps import NowDep, StoreDep
from api.leases import check_leases
from api.pages import PAGE_HEADERS
from api.pages.clusters import cluster_html, clusters_html
from api.pages.environment import Site
from api.pages.fleet import fleet_html
from api.pages.render import report_html
from api.pages.run_list import run_list_html
from api.pages.unscored import unscored_html
from api.routes.fleet import fleet_of
from api.store.cluster_prices import Pricing
from api.store.engine import Store
from api.store.evaluations import latest_by_spec, latest_evaluation
from api.store.fleet import device_days
from api.store.inventory import get_cluster, page_of_clusters
from api.store.run_list import KINDS, ORDERS, RunFilter, known_clusters, page_of_run_rows
from api.store.runs import view
from api.store.telemetry import page_of_nodes
from tokenstone.day import Day
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.fleet import day_number, fleet_rows, fleet_totals, today
from tokenstone.report import build_report
from tokenstone.run import RunState

router = APIRouter(include_in_schema=False)

_ROWS = 50
_DAY: TypeAdapter[date] = TypeAdapter(Day)
Cursor = Annotated[str | None, Query(max_length=1000)]
Text = Annotated[str, Query(max_length=200)]


def site(caller: Caller, current: str) -> Site:
    """The frame of a page for whoever asks."""
    return Site(current, caller.name if caller.has_session else "")


def page(html: str) -> HTMLResponse:
    """A page as the answer."""
    return HTMLResponse(html, headers=PAGE_HEADERS)


@router.get("/")
def home(_caller: Reader) -> RedirectResponse:
    """The clusters, which is where everything hangs."""
    return RedirectResponse("/clusters", 307)


@router.get("/clusters")
def clusters(caller: Reader, store: StoreDep, now: NowDep, cursor: Cursor = None) -> HTMLResponse:
    """What a token costs on each cluster, by its latest run of each workload."""
    with store.reading() as session:
        found = page_of_clusters(
            session, cluster=caller.cluster_of_list(None), cursor=cursor, limit=_ROWS, on=today(now)
        )
        figures = latest_by_spec(session, {item.name for item in found.items})
    return page(clusters_html(site(caller, "/clusters"), found, figures, now=now))


@router.get("/clusters/{cluster:path}")
def cluster_page(cluster: str, caller: Reader, store: StoreDep, now: NowDep, cursor: Cursor = None) -> HTMLResponse:
    """One cluster: what its tokens cost, how its last seven days were spent, its nodes."""
    return page(cluster_page_html(site(caller, "/clusters"), cluster, caller, store, now, cursor))


def cluster_page_html(
    frame: Site | None, cluster: str, caller: Caller, store: Store, now: float, cursor: str | None = None
) -> str:
    """The page of a cluster, in a frame or as a file. Raises NotFound, and NotAllowed for one that is not theirs."""
    caller.check_cluster(cluster, "cluster")
    last = today(now)
    with store.reading() as session:
        found = get_cluster(session, cluster, on=last)
        figures = latest_by_spec(session, {cluster})
        nodes = page_of_nodes(session, cluster=cluster, cursor=cursor, limit=_ROWS)
        days = device_days(
            session, cluster=cluster, first_day=day_number(last - timedelta(days=6)), last_day=day_number(last), now=now
        )
        spent = fleet_totals(fleet_rows(days, Pricing(session, cluster, None)))
    return cluster_html(frame, found, figures, nodes, spent[0] if spent else None, now=now)


@router.get("/runs")
def runs(
    caller: Reader,
    store: StoreDep,
    now: NowDep,
    cursor: Cursor = None,
    state: Text = "",
    cluster: Text = "",
    spec_id: Text = "",
    kind: Text = "",
    sort: Text = "newest",
) -> HTMLResponse:
    """Runs with the figures of their latest evaluation. What a form leaves empty is any."""
    wanted = RunFilter(
        _one_of(state, list(RunState), "query.state"),
        cluster or None,
        spec_id or None,
        _one_of(kind, KINDS, "query.kind"),
    )
    order = _one_of(sort, ORDERS, "query.sort") or ORDERS[0]
    mine = replace(wanted, cluster=caller.cluster_of_list(wanted.cluster))
    check_leases(store, now)
    with store.reading() as session:
        found = page_of_run_rows(session, mine, order=order, cursor=cursor, limit=_ROWS)
        names = known_clusters(session, caller.cluster)
    return page(run_list_html(site(caller, "/runs"), found, wanted, order, names, is_first=cursor is None))


@router.get("/runs/{run_id}")
def run_page(run_id: str, caller: Reader, store: StoreDep, now: NowDep) -> HTMLResponse:
    """The report on a run; for one that has no evaluation, what can be said of it."""
    check_leases(store, now)
    with store.reading() as session:
        run = run_of(session, caller, run_id)
        shown, evaluation = view(run), latest_evaluation(session, run)
    if evaluation is None:
        return page(unscored_html(site(caller, "/runs"), shown))
    return page(report_html(build_report([(shown, evaluation)], created_unix_seconds=now), site=site(caller, "/runs")))


@router.get("/fleet")
def fleet(
    caller: Reader, store: StoreDep, now: NowDep, cluster: Text = "", start: Text = "", end: Text = ""
) -> HTMLResponse:
    """How the device-hours of all clusters were spent; the last seven days, where nobody names others."""
    found = fleet_of(caller, store, now, cluster or None, _day(start, "query.start"), _day(end, "query.end"), None)
    with store.reading() as session:
        names = known_clusters(session, caller.cluster)
    return page(fleet_html(found, site=site(caller, "/fleet"), cluster=cluster, clusters=names))


def _one_of(text: str, known: Sequence[str], where: str) -> str | None:
    """What a form chose; None for nothing. Raises UnknownName."""
    if text and text not in known:
        raise UnknownName(where.removeprefix("query."), text, known, where=where)
    return text or None


def _day(text: str, where: str) -> date | None:
    """A day of a form; None for nothing. Raises InvalidValue."""
    try:
        return _DAY.validate_python(text) if text else None
    except ValidationError:
        raise InvalidValue(f"{text[:40]!r} is not a day", where=where, hint="give a day as YYYY-MM-DD") from None
