"""The audit log: what administrators did, in the transaction that did it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.tables import AuditRow
from tokenstone.wire import AuditEntry, Page


def add_audit(
    session: Session, *, actor: str, action: str, target: str, detail: str = "", request_id: str = "", now: float
) -> None:
    """Append an entry. `detail` holds no secret."""
    session.add(
        AuditRow(at_unix_seconds=now, actor=actor, action=action, target=target, detail=detail, request_id=request_id)
    )


def page_of_audit(session: Session, *, cursor: str | None, limit: int) -> Page[AuditEntry]:
    """The log, the newest first."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(AuditRow.id < decode_cursor(cursor, int)[0])
    return make_page(session.scalars(query).all(), limit, item=_entry, key=lambda row: (row.id,))


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        number=row.id,
        at_unix_seconds=row.at_unix_seconds,
        actor=row.actor,
        action=row.action,
        target=row.target,
        detail=row.detail,
        request_id=row.request_id,
    )
