"""Statements that SQLite and PostgreSQL both know and SQLAlchemy's common language does not."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Insert, Select, Table, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.store.tables import Base, core_table


def insert_new(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    if rows:
        session.execute(_insert_new(core_table(entity), is_postgresql(session)), list(rows))


def upsert(session: Session, entity: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the same columns; those whose key is there already get the new values."""
    if rows:
        session.execute(_upsert(core_table(entity), tuple(rows[0]), is_postgresql(session)), list(rows))


# Making a statement costs more than running it on a few rows.
@cache
def _insert_new(table: Table, for_postgresql: bool) -> Insert:
    insert = postgresql.insert if for_postgresql else sqlite.insert
    return insert(table).on_conflict_do_nothing()


@cache
def _upsert(table: Table, names: tuple[str, ...], for_postgresql: bool) -> Insert:
    insert = (postgresql.insert if for_postgresql else sqlite.insert)(table)
    values = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key and c.name in names}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)


def insert_from(session: Session, entity: type[Base], query: Select[*tuple[Any, ...]]) -> None:
    """Insert what a query finds, its columns in the table's order; rows whose key is there get the new values."""
    table = core_table(entity)
    insert = (postgresql.insert if is_postgresql(session) else sqlite.insert)(table)
    values = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    filled = insert.from_select([column.name for column in table.columns], query)
    session.execute(filled.on_conflict_do_update(index_elements=list(table.primary_key), set_=values))


_NAMES = ("series_id", "start_unix_seconds", "duration_seconds", "count", "mean", "minimum", "maximum", "delta")
_TYPES = ("bigint", "float8", "float8", "bigint", "float8", "float8", "float8", "float8")
_INTO = f"INSERT INTO windows ({', '.join(_NAMES)})"
_SQLITE_WINDOWS = f"{_INTO} VALUES ({', '.join('?' for _ in _NAMES)}) ON CONFLICT DO NOTHING"
_ARRAYS = ", ".join(f"%s::{type_}[]" for type_ in _TYPES)
_POSTGRESQL_WINDOWS = f"{_INTO} SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING"  # noqa: S608  our own names


def insert_windows(session: Session, columns: Sequence[Sequence[Any]]) -> None:
    """Insert windows, given as the columns of their table; those that are there already are left as they are.

    The hot path of the service, so it speaks to the drivers: rows for SQLite in the order of the key, and a whole array
    for each column for PostgreSQL, which takes the batch as one statement.
    """
    if not columns[0]:
        return
    connection = session.connection()
    if is_postgresql(session):
        connection.exec_driver_sql(_POSTGRESQL_WINDOWS, tuple(list(column) for column in columns))
    else:
        connection.exec_driver_sql(_SQLITE_WINDOWS, sorted(zip(*columns, strict=True), key=itemgetter(0, 1)))


def floor_divided(session: Session, dividend: ColumnElement[float], divisor: float) -> ColumnElement[Any]:
    """How often `divisor` fits into a `dividend` that is not negative, whole times."""
    # A cast to integer cuts off in SQLite, which may lack floor(), and rounds in PostgreSQL.
    if is_postgresql(session):
        return func.floor(dividend / divisor)
    return cast(dividend / divisor, BigInteger)


def is_postgresql(session: Session | Connection) -> bool:
    """Say which of the two databases it is."""
    bind = session if isinstance(session, Connection) else session.get_bind()
    return bind.dialect.name == "postgresql"


def take_turn(session: Session | Connection, purpose: str) -> None:
    """Wait until no other process does the same; the turn ends with the transaction. SQLite takes turns by itself."""
    if is_postgresql(session):
        session.execute(select(func.pg_advisory_xact_lock(_lock_number(purpose))))


def try_turn(session: Session, purpose: str) -> bool:
    """Take a turn unless another process has it."""
    if is_postgresql(session):
        return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_lock_number(purpose)))))
    return True


def _lock_number(purpose: str) -> int:
    return zlib.crc32(f"tokenstone {purpose}".encode())
