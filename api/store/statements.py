"""Statements that SQLite and PostgreSQL both know and SQLAlchemy's common language does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.store.tables import Base, core_table


def insert_new(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    if not rows:
        return
    insert = postgresql.insert if is_postgresql(session) else sqlite.insert
    session.execute(insert(core_table(entity)).on_conflict_do_nothing(), list(rows))


def floor_divided(session: Session, dividend: ColumnElement[float], divisor: float) -> ColumnElement[Any]:
    """How often `divisor` fits into a `dividend` that is not negative, whole times."""
    # A cast to integer cuts off in SQLite, which may lack floor(), and rounds in PostgreSQL.
    if is_postgresql(session):
        return func.floor(dividend / divisor)
    return cast(dividend / divisor, BigInteger)


def is_postgresql(session: Session) -> bool:
    """Say which of the two databases it is."""
    return session.get_bind().dialect.name == "postgresql"
