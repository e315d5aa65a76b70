"""For those who operate the service."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.deps import MetricsDep, StoreDep
from api.openapi import problems
from api.views import Health

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="Is the process alive?", responses=problems(500))
def healthz() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get("/readyz", summary="Can it work?", responses=problems(500, 503))
def readyz(store: StoreDep) -> Health:
    """Asks the database."""
    store.check()
    return Health()


@router.get(
    "/metrics",
    summary="Metrics of the service, for Prometheus",
    response_class=Response,
    responses=problems(500, 503) | {200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
)
def metrics(metrics: MetricsDep) -> Response:
    """What was taken in, and the latest score and cost of every spec."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
