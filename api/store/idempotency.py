"""`Idempotency-Key`: a request that is sent a second time makes nothing a second time."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from api.store.tables import IdempotencyRow
from tokenstone.errors import InvalidValue

KEPT_SECONDS = 86_400.0
"""How long a key is remembered."""


def find_made(session: Session, caller: str, key: str, fingerprint: str, *, now: float) -> str | None:
    """What the request of that key has made, or None for a new key; raises InvalidValue for a key used otherwise."""
    row = session.get(IdempotencyRow, (caller, key))
    if row is None or row.created_unix_seconds <= now - KEPT_SECONDS:
        return None
    if row.fingerprint != fingerprint:
        raise InvalidValue(
            "that key was used for another request", where="header.Idempotency-Key", hint="draw a new key"
        )
    return row.made


def keep_made(session: Session, caller: str, key: str, fingerprint: str, made: str, *, now: float) -> None:
    """Remember what a request made, in the transaction that makes it; forget what is old."""
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_unix_seconds <= now - KEPT_SECONDS))
    session.add(IdempotencyRow(caller=caller, key=key, fingerprint=fingerprint, made=made, created_unix_seconds=now))
