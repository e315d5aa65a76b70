"""API keys in the store."""

from __future__ import annotations

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.secrets import SESSION_SECONDS, draw_key, is_secret_of, is_session_of, prefix_of, read_session, session_of
from api.store.paging import decode_cursor, make_page
from api.store.tables import ApiKeyRow
from tokenstone.errors import NotFound
from tokenstone.wire import KeyCreate, KeyMade, KeyScope, KeyView, Page


def create_key(session: Session, wanted: KeyCreate, *, now: float) -> KeyMade:
    """Draw a key and keep its hash; the answer is the only place that ever holds the key itself."""
    key = draw_key()
    row = ApiKeyRow(
        prefix=key.prefix,
        salt=key.salt,
        digest=key.digest,
        name=wanted.name,
        scopes=json.dumps(sorted(set(wanted.scopes))),
        cluster=wanted.cluster,
        created_unix_seconds=now,
        expires_unix_seconds=wanted.expires_unix_seconds,
        revoked_unix_seconds=None,
    )
    session.add(row)
    session.flush()
    return KeyMade(key=key.text, **_view(row).model_dump())


def find_key(session: Session, text: str, *, now: float) -> KeyView | None:
    """The key of that text, or None where there is none, or it is revoked or has expired."""
    prefix = prefix_of(text)
    if prefix is None:
        return None
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix))
    if row is None or not is_secret_of(text, row.salt, row.digest):
        return None
    return _in_force(row, now)


def begin_session(session: Session, key: KeyView, *, now: float) -> str:
    """A session for a browser, by a key that was just found."""
    return session_of(key.prefix, _row(session, key.prefix).digest, int(now) + SESSION_SECONDS)


def find_session(session: Session, text: str, *, now: float) -> KeyView | None:
    """The key of a session; None where there is none, the session is over, or its key is no longer in force."""
    told = read_session(text)
    if told is None or told[1] <= now:
        return None
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == told[0]))
    return _in_force(row, now) if row is not None and is_session_of(text, row.digest) else None


def _in_force(row: ApiKeyRow, now: float) -> KeyView | None:
    expired = row.expires_unix_seconds is not None and row.expires_unix_seconds <= now
    return None if expired or row.revoked_unix_seconds is not None else _view(row)


def get_key(session: Session, prefix: str) -> KeyView:
    """The key with that prefix; raises NotFound."""
    return _view(_row(session, prefix))


def revoke_key(session: Session, prefix: str, *, now: float) -> tuple[KeyView, bool]:
    """Revoke a key for good. Returns it and whether it was in force; raises NotFound."""
    row = _row(session, prefix)
    was_in_force = row.revoked_unix_seconds is None
    if was_in_force:
        row.revoked_unix_seconds = now
    return _view(row), was_in_force


def page_of_keys(session: Session, *, cursor: str | None, limit: int) -> Page[KeyView]:
    """All keys, revoked ones too, the newest first."""
    query = select(ApiKeyRow).order_by(ApiKeyRow.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(ApiKeyRow.id < decode_cursor(cursor, int)[0])
    return make_page(session.scalars(query).all(), limit, item=_view, key=lambda row: (row.id,))


def has_admin_key(session: Session, *, now: float) -> bool:
    """Say whether anybody can administer the service by a key."""
    keys = session.scalars(select(ApiKeyRow).where(ApiKeyRow.revoked_unix_seconds.is_(None)))
    return any(
        KeyScope.ADMIN in json.loads(row.scopes)
        and (row.expires_unix_seconds is None or row.expires_unix_seconds > now)
        for row in keys
    )


def _row(session: Session, prefix: str) -> ApiKeyRow:
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix))
    if row is None:
        raise NotFound(f"there is no key {prefix[:40]!r}", where="prefix", hint="GET /v1/keys lists them")
    return row


def _view(row: ApiKeyRow) -> KeyView:
    return KeyView(
        prefix=row.prefix,
        name=row.name,
        scopes=[KeyScope(scope) for scope in json.loads(row.scopes)],
        cluster=row.cluster,
        created_unix_seconds=row.created_unix_seconds,
        expires_unix_seconds=row.expires_unix_seconds,
        revoked_unix_seconds=row.revoked_unix_seconds,
    )
