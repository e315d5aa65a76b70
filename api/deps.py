"""What routes are given: the store, the present time, paging parameters, who made the request and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel

from api.metrics import ServiceMetrics
from api.settings import Settings
from api.store.audit import add_audit
from api.store.engine import Session, Store
from api.store.idempotency import find_made, keep_made

# What waits for nothing is `async`: FastAPI would hand every plain function to a thread and back, which costs more than
# storing a small batch.


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _now(request: Request) -> float:
    now: float = request.app.state.clock()
    return now


async def _metrics(request: Request) -> ServiceMetrics:
    metrics: ServiceMetrics = request.app.state.metrics
    return metrics


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


class Paging(BaseModel):
    """How much of a list is asked for, and from where on."""

    cursor: str | None
    limit: int


async def _paging(
    cursor: Annotated[
        str | None, Query(max_length=1000, description="`next_cursor` of the page before; none is the first page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most items of one page.")] = 100,
) -> Paging:
    return Paging(cursor=cursor, limit=limit)


@dataclass(frozen=True, slots=True)
class Act:
    """Something that is done once and is written down: its audit entry, and its `Idempotency-Key`."""

    request_id: str
    key: str | None
    fingerprint: str
    now: float

    def audit(self, session: Session, actor: str, action: str, target: str, detail: str = "") -> None:
        """Write the act into the audit log."""
        add_audit(
            session, actor=actor, action=action, target=target, detail=detail, request_id=self.request_id, now=self.now
        )

    def made_before(self, session: Session, actor: str) -> str | None:
        """What the same request made before, or None; raises InvalidValue for a key of another request."""
        return find_made(session, actor, self.key, self.fingerprint, now=self.now) if self.key else None

    def keep(self, session: Session, actor: str, made: str) -> None:
        """Remember what was made, in the transaction that makes it."""
        if self.key:
            keep_made(session, actor, self.key, self.fingerprint, made, now=self.now)


async def _act(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="Drawn by the client: the same request with the same key makes nothing a second time.",
        ),
    ] = None,
) -> Act:
    request_id: str = request.state.request_id
    what = f"{request.method} {request.url.path}?{request.url.query}".encode() + b"\n" + await request.body()
    return Act(request_id, key, hashlib.sha256(what).hexdigest(), request.app.state.clock())


StoreDep = Annotated[Store, Depends(_store)]
NowDep = Annotated[float, Depends(_now)]
MetricsDep = Annotated[ServiceMetrics, Depends(_metrics)]
SettingsDep = Annotated[Settings, Depends(_settings)]
PagingDep = Annotated[Paging, Depends(_paging)]
ActDep = Annotated[Act, Depends(_act)]
