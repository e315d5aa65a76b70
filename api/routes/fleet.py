"""Clusters, specs, prices, and how the device-hours of the fleet were spent."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import HTMLResponse

from api import examples
from api.auth import Admin, Caller, Reader
from api.deps import ActDep, NowDep, PagingDep, StoreDep
from api.leases import check_leases
from api.openapi import GUARDED, WITH_BODY, problems
from api.pages import PAGE_HEADERS
from api.pages.fleet import fleet_html
from api.store.cluster_prices import Pricing, add_cluster_price, cluster_prices
from api.store.engine import Store
from api.store.fleet import device_days
from api.store.inventory import get_cluster, get_spec, page_of_clusters, page_of_specs
from api.views import ClusterView, SpecView
from tokenstone.day import Day
from tokenstone.errors import InvalidValue
from tokenstone.fleet import Fleet, day_number, fleet_rows, fleet_totals, today
from tokenstone.wire import ClusterPrice, DatedPrice, Page

router = APIRouter(prefix="/v1", tags=["fleet"])

MOST_DAYS = 92
Filter = Annotated[str | None, Query(max_length=200)]
First = Annotated[Day | None, Query(description="First day (UTC); by default six days before the last.")]
Last = Annotated[Day | None, Query(description="Last day (UTC), included; by default today.")]
Usd = Annotated[
    float | None, Query(ge=0, le=1e6, allow_inf_nan=False, description="One price instead of the clusters' own.")
]
Book = Annotated[str | None, Query(max_length=500, description="A price book instead of the clusters' own prices.")]
RowKey = Annotated[str | None, Query(max_length=500, description="A row of that book; by default by hardware.")]


@router.get("/clusters", summary="List clusters", responses=GUARDED)
def list_clusters(
    caller: Reader, store: StoreDep, now: NowDep, paging: PagingDep, cluster: Filter = None
) -> Page[ClusterView]:
    """Every cluster that a node or a run has named, by name."""
    with store.reading() as session:
        return page_of_clusters(
            session, cluster=caller.cluster_of_list(cluster), cursor=paging.cursor, limit=paging.limit, on=today(now)
        )


@router.get("/clusters/{cluster}", summary="Read one cluster", responses=GUARDED | problems(404))
def read_cluster(cluster: str, caller: Reader, store: StoreDep, now: NowDep) -> ClusterView:
    """Its size, when it was last heard of, and what it is priced by today.

    One whose name holds a slash is found in the list alone: `GET /v1/clusters?cluster=NAME`.
    """
    caller.check_cluster(cluster, "cluster")
    with store.reading() as session:
        return get_cluster(session, cluster, on=today(now))


@router.get("/cluster-prices", summary="List the prices of clusters", responses=GUARDED)
def list_cluster_prices(caller: Reader, store: StoreDep, cluster: Filter = None) -> list[ClusterPrice]:
    """What each cluster's devices are priced by, from the latest day on which a price counts."""
    with store.reading() as session:
        found = cluster_prices(session, caller.cluster_of_list(cluster))
    return [price for name in sorted(found) for price in found[name]]


@router.put("/cluster-prices", summary="Price a cluster's devices from a day on", responses=WITH_BODY)
def set_cluster_price(
    price: Annotated[ClusterPrice, Body(openapi_examples=examples.one(examples.CLUSTER_PRICE, "By hand"))],
    caller: Admin,
    act: ActDep,
    store: StoreDep,
    now: NowDep,
) -> ClusterPrice:
    """The fleet view counts in this money. Prices from other days stay; one from the same day is replaced."""
    with store.writing() as session:
        if price not in cluster_prices(session, price.cluster).get(price.cluster, []):
            add_cluster_price(session, price, now=now)
            told = price.model_dump_json(exclude_none=True, exclude={"cluster"})
            act.audit(session, caller.name, "cluster priced", price.cluster, told)
    return price


@router.get("/specs", summary="List workload specs", responses=GUARDED)
def list_specs(caller: Reader, store: StoreDep, paging: PagingDep, cluster: Filter = None) -> Page[SpecView]:
    """Everything that runs have executed, by id. Runs of one spec compare as like with like."""
    mine = caller.cluster_of_list(cluster)
    with store.reading() as session:
        return page_of_specs(session, cluster=mine, cursor=paging.cursor, limit=paging.limit)


@router.get("/specs/{spec_id}", summary="Read one workload spec", responses=GUARDED | problems(404))
def read_spec(spec_id: str, caller: Reader, store: StoreDep) -> SpecView:
    """A spec, and how many runs have had it."""
    with store.reading() as session:
        return get_spec(session, spec_id, cluster=caller.cluster)


@router.get("/fleet", summary="How the device-hours of the fleet were spent", responses=GUARDED)
def read_fleet(
    caller: Reader,
    store: StoreDep,
    now: NowDep,
    cluster: Filter = None,
    start: First = None,
    end: Last = None,
    usd_per_device_hour: Usd = None,
    price_book: Book = None,
    price_row: RowKey = None,
) -> Fleet:
    """Allocated, busy, idle and unknown device-hours by cluster and day, in hours and in money.

    Busy, idle and unknown add up to the hours for which accelerators were there. Unknown is not idle: the agent was
    silent. Money is by the price in force on each day (PUT /v1/cluster-prices), or by the one asked for.
    """
    return fleet_of(caller, store, now, cluster, start, end, _override(usd_per_device_hour, price_book, price_row))


@router.get(
    "/fleet/html",
    summary="The fleet, as a page",
    response_class=HTMLResponse,
    responses=GUARDED | {200: {"description": "A page that needs nothing else", "content": {"text/html": {}}}},
)
def fleet_page(
    caller: Reader,
    store: StoreDep,
    now: NowDep,
    cluster: Filter = None,
    start: First = None,
    end: Last = None,
    usd_per_device_hour: Usd = None,
    price_book: Book = None,
    price_row: RowKey = None,
) -> HTMLResponse:
    """The same for people: one file without scripts."""
    override = _override(usd_per_device_hour, price_book, price_row)
    return HTMLResponse(fleet_html(fleet_of(caller, store, now, cluster, start, end, override)), headers=PAGE_HEADERS)


def _override(usd: float | None, book: str | None, row: str | None) -> DatedPrice | None:
    if usd is None and book is None and row is None:
        return None
    if usd is not None and (book is not None or row is not None):
        raise InvalidValue("two prices: a figure and a book", where="query.price_book", hint="give one of them")
    if usd is None and not book:
        raise InvalidValue("a row without its book", where="query.price_row", hint="give price_book too")
    return DatedPrice(effective_from=date.min, usd_per_device_hour=usd, price_book=book, price_row=row)


def fleet_of(
    caller: Caller,
    store: Store,
    now: float,
    cluster: str | None,
    start: date | None,
    end: date | None,
    override: DatedPrice | None,
) -> Fleet:
    """The fleet view that a caller asks for; the last seven days where they name none. Raises InvalidValue."""
    mine = caller.cluster_of_list(cluster)
    last = end or today(now)
    first = start or max(date.min + timedelta(days=6), last) - timedelta(days=6)
    if last < first:
        raise InvalidValue(f"the last day, {last}, is before the first, {first}", where="query.end")
    if (last - first).days >= MOST_DAYS:
        raise InvalidValue(f"more than {MOST_DAYS} days", where="query.start", hint="ask for a part of them")
    check_leases(store, now)
    with store.reading() as session:
        days = device_days(session, cluster=mine, first_day=day_number(first), last_day=day_number(last), now=now)
        rows = fleet_rows(days, Pricing(session, mine, override))
    return Fleet(start=first, end=last, created_unix_seconds=now, totals=fleet_totals(rows), rows=rows)
