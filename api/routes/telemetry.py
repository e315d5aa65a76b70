"""Windows in, windows out, and the nodes and devices they come from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request

from api import examples
from api.auth import Ingester, Reader
from api.deps import MetricsDep, NowDep, PagingDep, SettingsDep, StoreDep
from api.openapi import GUARDED, WITH_BODY, problems
from api.plausible import check_batch
from api.store.aggregates import Aggregation, StepQuery, page_of_points
from api.store.ingest import take_batch
from api.store.inventory import page_of_devices
from api.store.limits import check_limits
from api.store.runs import is_active_on
from api.store.targets import register_target
from api.store.telemetry import WindowFilter, page_of_nodes, page_of_windows
from api.views import DeviceView, Points
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.metric import REGISTRY, Kind
from tokenstone.window import DEFAULT_SECONDS, RUN_SECONDS
from tokenstone.wire import IngestAnswer, NodeView, Page, WindowBatch, WindowRow

router = APIRouter(prefix="/v1", tags=["telemetry"])

MOST_GAPS_TOLD = 100
MOST_STEPS = 11_000
Filter = Annotated[str | None, Query(max_length=200)]
Time = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Seconds since 1970.")]
Moment = Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False, description="Seconds since 1970.")]


@router.post("/windows", summary="Hand over a batch of windows", responses=WITH_BODY | problems(409))
def push_windows(
    batch: Annotated[WindowBatch, Body(openapi_examples=examples.one(examples.BATCH, "Two windows"))],
    caller: Ingester,
    store: StoreDep,
    now: NowDep,
    metrics: MetricsDep,
    settings: SettingsDep,
    request: Request,
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
        if (address := _metrics_address(batch, request)) is not None:
            register_target(session, batch.cluster, batch.node, address, now=now)
        active = is_active_on(session, batch.cluster, batch.node)
    status = "accepted" if is_new else "duplicate"
    count = len(batch.series_index) if is_new else 0
    metrics.batches.labels(status).inc()
    metrics.windows.inc(count)
    return IngestAnswer(
        status="accepted" if is_new else "duplicate",
        windows=count,
        missing_sequences=list(arrivals.missing[:MOST_GAPS_TOLD]),
        window_seconds=RUN_SECONDS if active else DEFAULT_SECONDS,
    )


def _metrics_address(batch: WindowBatch, request: Request) -> str | None:
    """Where the agent can be scraped; an agent that listens everywhere is reached where the batch came from."""
    if batch.metrics_address is None:
        return None
    host, _, port = batch.metrics_address.rpartition(":")
    if not host.strip("[]") and request.client is not None:
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
) -> Page[WindowRow]:
    """Windows that start from `start` on and before `end`, by series and, within one, by time."""
    if metric is not None:
        _check_metric(metric)
    wanted = WindowFilter(
        cluster=caller.cluster_of_list(cluster), node=node, device=device, metric=metric, start=start, end=end
    )
    with store.reading() as session:
        return page_of_windows(session, wanted, cursor=paging.cursor, limit=paging.limit)


@router.get("/windows/steps", summary="Read a metric in steps of time", responses=GUARDED)
def read_steps(
    caller: Reader,
    store: StoreDep,
    paging: PagingDep,
    metric: Annotated[str, Query(max_length=200, examples=["accel_busy_ratio"])],
    start: Moment,
    end: Moment,
    step_seconds: Annotated[float, Query(ge=1, le=31_536_000, allow_inf_nan=False)] = 60.0,
    aggregation: Annotated[
        Aggregation | None, Query(description="By default mean for gauges, rate for counters.")
    ] = None,
    cluster: Filter = None,
    node: Filter = None,
    device: Filter = None,
) -> Page[Points]:
    """Each series of one metric as columns of steps: mean, min or max of a gauge, sum or rate of a counter.

    Steps are multiples of `step_seconds` since 1970; `limit` counts series.
    """
    _check_metric(metric)
    gauge = REGISTRY[metric].kind is Kind.GAUGE
    chosen = aggregation or (Aggregation.MEAN if gauge else Aggregation.RATE)
    if (chosen in {Aggregation.SUM, Aggregation.RATE}) is gauge:
        fitting = "mean, min or max" if gauge else "sum or rate"
        raise InvalidValue(
            f"{metric} is a {REGISTRY[metric].kind} and has no {chosen}",
            where="query.aggregation",
            hint=f"ask for {fitting}",
        )
    if end <= start:
        raise InvalidValue("the end is not after the start", where="query.end")
    if (end - start) / step_seconds > MOST_STEPS:
        raise InvalidValue(f"more than {MOST_STEPS:,} steps", where="query.step_seconds", hint="take longer steps")
    wanted = StepQuery(
        metric, start, end, step_seconds, chosen, cluster=caller.cluster_of_list(cluster), node=node, device=device
    )
    with store.reading() as session:
        return page_of_points(session, wanted, cursor=paging.cursor, limit=paging.limit)


def _check_metric(metric: str) -> None:
    if metric not in REGISTRY:
        raise UnknownName("metric", metric, REGISTRY, where="query.metric", hint="GET /v1/metrics lists them")


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
