"""Windows in, windows out, and the nodes and devices they come from."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Header, Query, Request

from api import examples
from api.auth import Ingester, Reader
from api.deps import MetricsDep, NowDep, PagingDep, SettingsDep, StoreDep
from api.openapi import GUARDED, WITH_BODY, problems
from api.plausible import check_batch
from api.store.ingest import take_batch
from api.store.inventory import page_of_devices
from api.store.limits import check_limits
from api.store.runs import is_active_on
from api.store.targets import register_target
from api.store.telemetry import page_of_nodes
from api.store.windows import SeriesSelector, query_windows
from api.views import DeviceView
from tokenstone.errors import UnknownName
from tokenstone.metric import REGISTRY
from tokenstone.window import DEFAULT_SECONDS, RUN_SECONDS
from tokenstone.wire import METRICS_ADDRESS, IngestAnswer, NodeView, Page, WindowBatch, WindowRow

router = APIRouter(prefix="/v1", tags=["telemetry"])

MOST_GAPS_TOLD = 100
MetricsAddress = Annotated[
    str | None,
    Header(
        alias=METRICS_ADDRESS,
        max_length=300,
        pattern=r"^([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])?:[0-9]{1,5}$",
        description="HOST:PORT where the agent serves its metrics; without a host, where the batch comes from.",
    ),
]
Filter = Annotated[str | None, Query(max_length=200)]
Time = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Seconds since 1970.")]


@router.post("/windows", summary="Hand over a batch of windows", responses=WITH_BODY | problems(409))
def push_windows(
    batch: Annotated[WindowBatch, Body(openapi_examples=examples.one(examples.BATCH, "Two windows"))],
    caller: Ingester,
    store: StoreDep,
    now: NowDep,
    metrics: MetricsDep,
    settings: SettingsDep,
    request: Request,
    address: MetricsAddress = None,
) -> IngestAnswer:
    """Idempotent by (cluster, node, epoch, sequence): a batch that is there already changes nothing.

    May be sent with `Content-Encoding: gzip` or `zstd`. Tells the ranges of sequences that have not arrived. Names
    must be in the registry, times of this age, and values possible in their unit; else nothing of it is stored.
    """
    caller.check_cluster(batch.cluster, "body.cluster")
    check_batch(batch, settings, now=now)
    with store.writing() as session:
        check_limits(
            session, batch, most_series=settings.max_series_per_node, most_nodes=settings.max_nodes_per_cluster
        )
        is_new, arrivals = take_batch(session, batch, now=now)
        if address is not None:
            register_target(session, batch.cluster, batch.node, _reached_at(address, request), now=now)
        active = is_active_on(session, batch.cluster, batch.node)
    status = "accepted" if is_new else "duplicate"
    count = len(batch.series_index) if is_new else 0
    metrics.batches.labels(status).inc()
    metrics.windows.inc(count)
    return IngestAnswer(
        status="accepted" if is_new else "duplicate",
        windows=count,
        missing_sequences=[list(gap) for gap in arrivals.missing[:MOST_GAPS_TOLD]],
        window_seconds=RUN_SECONDS if active else DEFAULT_SECONDS,
        server_unix_seconds=now,
    )


def _reached_at(address: str, request: Request) -> str:
    """Where the agent can be scraped; one that listens on every interface is reached where the batch came from."""
    host, _, port = address.rpartition(":")
    if not host and request.client is not None:
        host = f"[{request.client.host}]" if ":" in request.client.host else request.client.host
    return f"{host}:{port}"


@router.get("/windows", summary="Read windows", responses=GUARDED)
def read_windows(
    caller: Reader,
    store: StoreDep,
    paging: PagingDep,
    cluster: Filter = None,
    node: Filter = None,
    device: Filter = None,
    metric: Filter = None,
    start: Time = None,
    end: Time = None,
    step: Annotated[
        float | None,
        Query(ge=1, le=31_536_000, allow_inf_nan=False, description="Seconds; none: windows as they are."),
    ] = None,
    aggregation: Annotated[
        Literal["series", "cluster"], Query(description="`cluster`: all series of a metric in the cluster together.")
    ] = "series",
) -> Page[WindowRow]:
    """Windows that start from `start` on and before `end`, by series and, within one, by time.

    With `step`, the windows of a step (steps count from 1970) are one row: durations, counts and deltas are added, the
    mean is weighted by counts. Steps of whole hours come from roll-ups that are kept for ever; `aggregation=cluster`
    needs them.
    """
    if metric is not None and metric not in REGISTRY:
        raise UnknownName("metric", metric, REGISTRY, where="query.metric", hint="GET /v1/metrics lists them")
    selector = SeriesSelector(caller.cluster_of_list(cluster), node, device, metric)
    with store.reading() as session:
        return query_windows(session, selector, start, end, step, aggregation, paging.limit, paging.cursor)


@router.get("/nodes", summary="List nodes", responses=GUARDED)
def list_nodes(caller: Reader, store: StoreDep, paging: PagingDep, cluster: Filter = None) -> Page[NodeView]:
    """Every node that has sent windows: its devices, and the metrics it cannot give, with the reasons."""
    mine = caller.cluster_of_list(cluster)
    with store.reading() as session:
        return page_of_nodes(session, cluster=mine, cursor=paging.cursor, limit=paging.limit)


@router.get("/devices", summary="List devices", responses=GUARDED)
def list_devices(
    caller: Reader, store: StoreDep, paging: PagingDep, cluster: Filter = None, node: Filter = None
) -> Page[DeviceView]:
    """Every device that a node has named, with its name in the hardware catalogue where that is known."""
    mine = caller.cluster_of_list(cluster)
    with store.reading() as session:
        return page_of_devices(session, cluster=mine, node=node, cursor=paging.cursor, limit=paging.limit)
