"""What routes are given: the store, the present time, paging parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import BaseModel

from api.metrics import ServiceMetrics
from api.store.engine import Store


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _now(request: Request) -> float:
    now: float = request.app.state.clock()
    return now


def _metrics(request: Request) -> ServiceMetrics:
    metrics: ServiceMetrics = request.app.state.metrics
    return metrics


class Paging(BaseModel):
    """How much of a list is asked for, and from where on."""

    cursor: str | None
    limit: int


def _paging(
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before; none is the first page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most items of one page.")] = 100,
) -> Paging:
    return Paging(cursor=cursor, limit=limit)


StoreDep = Annotated[Store, Depends(_store)]
NowDep = Annotated[float, Depends(_now)]
MetricsDep = Annotated[ServiceMetrics, Depends(_metrics)]
PagingDep = Annotated[Paging, Depends(_paging)]
