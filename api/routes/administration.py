"""API keys, and the log of what administrators did."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from api import examples
from api.auth import Admin
from api.deps import ActDep, NowDep, PagingDep, StoreDep
from api.openapi import GUARDED, WITH_BODY, problems
from api.store.audit import page_of_audit
from api.store.keys import create_key, get_key, page_of_keys, revoke_key
from tokenstone.errors import Conflict, InvalidValue
from tokenstone.wire import AuditEntry, KeyCreate, KeyMade, KeyView, Page

router = APIRouter(prefix="/v1", tags=["administration"])


@router.post("/keys", summary="Create an API key", status_code=201, responses=WITH_BODY | problems(409))
def add_key(
    wanted: Annotated[KeyCreate, Body(openapi_examples=examples.one(examples.KEY, "For the agents of one cluster"))],
    caller: Admin,
    act: ActDep,
    store: StoreDep,
    now: NowDep,
) -> KeyMade:
    """The answer holds the key, this once: only its hash is kept.

    With `Idempotency-Key`, the same request again makes no second key; it is refused, because the first cannot be told
    again.
    """
    if wanted.expires_unix_seconds is not None and wanted.expires_unix_seconds <= now:
        raise InvalidValue("it would have expired already", where="body.expires_unix_seconds")
    with store.writing() as session:
        if (made := act.made_before(session, caller.name)) is not None:
            raise Conflict(
                f"that request made key {made}, which is told only once",
                where="header.Idempotency-Key",
                hint="revoke it and create another one, if the answer was lost",
            )
        key = create_key(session, wanted, now=now)
        act.audit(session, caller.name, "key created", key.prefix, wanted.model_dump_json(exclude_none=True))
        act.keep(session, caller.name, key.prefix)
    return key


@router.get("/keys", summary="List API keys", responses=GUARDED)
def list_keys(_caller: Admin, store: StoreDep, paging: PagingDep) -> Page[KeyView]:
    """All keys by prefix, name, scopes and cluster, the newest first, revoked ones too. Never the keys themselves."""
    with store.reading() as session:
        return page_of_keys(session, cursor=paging.cursor, limit=paging.limit)


@router.get("/keys/{prefix}", summary="Read about one API key", responses=GUARDED | problems(404))
def read_key(prefix: str, _caller: Admin, store: StoreDep) -> KeyView:
    """What the key with that prefix may do, and whether it is in force."""
    with store.reading() as session:
        return get_key(session, prefix)


@router.delete("/keys/{prefix}", summary="Revoke an API key", responses=GUARDED | problems(404))
def remove_key(prefix: str, caller: Admin, act: ActDep, store: StoreDep, now: NowDep) -> KeyView:
    """For good, and from the next request on. It stays in the list. Again changes nothing."""
    with store.writing() as session:
        key, was_in_force = revoke_key(session, prefix, now=now)
        if was_in_force:
            act.audit(session, caller.name, "key revoked", prefix)
    return key


@router.get("/audit", summary="Read the audit log", responses=GUARDED)
def read_audit(_caller: Admin, store: StoreDep, paging: PagingDep) -> Page[AuditEntry]:
    """What administrators did, the newest first: keys created and revoked, prices set and added."""
    with store.reading() as session:
        return page_of_audit(session, cursor=paging.cursor, limit=paging.limit)
