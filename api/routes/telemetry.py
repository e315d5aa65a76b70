"""Windows in, windows out, and the nodes they come from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query

from api import examples
from api.deps import MetricsDep, NowDep, PagingDep, StoreDep
from api.openapi import EVERYWHERE, WITH_BODY, problems
from api.store.ingest import take_batch
from api.store.runs import is_active_on
from api.store.telemetry import WindowFilter, page_of_nodes, page_of_windows
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.metric import REGISTRY
from tokenstone.window import DEFAULT_SECONDS, RUN_SECONDS
from tokenstone.wire import IngestAnswer, NodeView, Page, WindowBatch, WindowRow

router = APIRouter(prefix="/v1", tags=["telemetry"])

MOST_GAPS_TOLD = 100
Filter = Annotated[str | None, Query(max_length=200)]
Time = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Seconds since 1970.")]


@router.post("/windows", summary="Hand over a batch of windows", responses=WITH_BODY | problems(409))
def push_windows(
    batch: Annotated[WindowBatch, Body(openapi_examples=examples.one(examples.BATCH, "Two windows"))],
    store: StoreDep,
    now: NowDep,
    metrics: MetricsDep,
) -> IngestAnswer:
    """Idempotent by (cluster, node, epoch, sequence): a batch that is there already changes nothing.

    May be sent with `Content-Encoding: gzip`. Tells the ranges of sequences that have not arrived.
    """
    _check_names(batch)
    with store.writing() as session:
        is_new, arrivals = take_batch(session, batch, now=now)
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
        server_unix_seconds=now,
    )


def _check_names(batch: WindowBatch) -> None:
    """Raise UnknownName for a metric that the registry does not hold, InvalidValue for labels it has not."""
    for number, series in enumerate(batch.series):
        metric = REGISTRY.get(series.metric)
        if metric is None:
            raise _unknown(series.metric, f"series.{number}.metric")
        if set(series.labels) != set(metric.labels):
            raise InvalidValue(
                f"{series.metric} has the labels {sorted(metric.labels)}, not {sorted(series.labels)}",
                where=f"body.series.{number}.labels",
                hint="GET /v1/metrics lists them",
            )
    for number, absence in enumerate(batch.absences):
        if absence.metric not in REGISTRY:
            raise _unknown(absence.metric, f"absences.{number}.metric")


def _unknown(name: str, where: str) -> UnknownName:
    return UnknownName("metric", name, REGISTRY, where=f"body.{where}", hint="GET /v1/metrics lists them")


@router.get("/windows", summary="Read windows", responses=EVERYWHERE)
def read_windows(
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
    if metric is not None and metric not in REGISTRY:
        raise UnknownName("metric", metric, REGISTRY, where="query.metric", hint="GET /v1/metrics lists them")
    wanted = WindowFilter(cluster=cluster, node=node, device=device, metric=metric, start=start, end=end)
    with store.reading() as session:
        return page_of_windows(session, wanted, cursor=paging.cursor, limit=paging.limit)


@router.get("/nodes", summary="List nodes", responses=EVERYWHERE)
def list_nodes(store: StoreDep, paging: PagingDep, cluster: Filter = None) -> Page[NodeView]:
    """Every node that has sent windows: its devices, and the metrics it cannot give, with the reasons."""
    with store.reading() as session:
        return page_of_nodes(session, cluster=cluster, cursor=paging.cursor, limit=paging.limit)
