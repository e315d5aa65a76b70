"""How far housekeeping has come: points in time before which all is rolled up, or forgotten."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.tables import Horizon

ROLLED_UP = "rolled up"
"""Every hour before it is in the roll-ups, but for hours that late windows have touched since."""
FORGOTTEN = "forgotten"
"""Windows before it are forgotten, but for those of runs."""

PRUNED = "pruned"
"""The last forgetting that came to its end went so far."""


def horizon(session: Session, name: str, *, lock: bool = False) -> float:
    """The point in time that was reached, or 0. `lock`: it does not move before this session ends."""
    query = select(Horizon.unix_seconds).where(Horizon.name == name)
    return session.scalar(query.with_for_update(read=True) if lock else query) or 0.0


def move_horizon(session: Session, name: str, unix_seconds: float) -> None:
    """Move a horizon on; never back."""
    row = session.get(Horizon, name)
    if row is None:
        session.add(Horizon(name=name, unix_seconds=unix_seconds))
    else:
        row.unix_seconds = max(row.unix_seconds, unix_seconds)
