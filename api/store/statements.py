"""Statements that SQLite and PostgreSQL both know and SQLAlchemy's common language does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.store.tables import Base, core_table


def insert_new(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    if not rows:
        return
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    session.execute(insert(core_table(entity)).on_conflict_do_nothing(), list(rows))
