"""For those who operate the service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.auth import Observer, Reader
from api.deps import MetricsDep, NowDep, StoreDep
from api.openapi import GUARDED, problems
from api.store.targets import targets
from api.views import Health
from tokenstone.wire import TargetGroup

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="Is the process alive?", responses=problems(400, 429, 500))
def healthz() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get("/readyz", summary="Can it work?", responses=problems(400, 429, 500, 503))
def readyz(store: StoreDep) -> Health:
    """Asks the database."""
    store.check()
    return Health()


@router.get(
    "/metrics",
    summary="Metrics of the service, for Prometheus",
    response_class=Response,
    responses=GUARDED | {200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
)
def metrics(_caller: Observer, metrics: MetricsDep) -> Response:
    """What was taken in, and the latest score and cost of every spec."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/prometheus/targets", summary="Find the agents, for Prometheus", responses=GUARDED)
def prometheus_targets(
    caller: Reader, store: StoreDep, now: NowDep, cluster: Annotated[str | None, Query(max_length=200)] = None
) -> list[TargetGroup]:
    """HTTP service discovery: the agents that have pushed within a day, where they say they listen.

    For `http_sd_configs` of Prometheus; each target has the labels `cluster` and `node`.
    """
    mine = caller.cluster_of_list(cluster)
    with store.reading() as session:
        return targets(session, cluster=mine, now=now)
