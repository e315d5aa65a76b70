"""How far housekeeping has come: points in time before which all is rolled up, or forgotten."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.store.tables import Horizon

ROLLED_UP = "rolled up"
"""Every hour before it is in the roll-ups, but for hours that late windows have touched since."""
FORGOTTEN = "forgotten"
"""Windows before it are forgotten, but for those of runs."""


def horizon(session: Session, name: str) -> float:
    """The point in time that was reached, or 0."""
    row = session.get(Horizon, name)
    return 0.0 if row is None else row.unix_seconds


def move_horizon(session: Session, name: str, unix_seconds: float) -> None:
    """Move a horizon on; never back."""
    row = session.get(Horizon, name)
    if row is None:
        session.add(Horizon(name=name, unix_seconds=unix_seconds))
    else:
        row.unix_seconds = max(row.unix_seconds, unix_seconds)
