"""Opens the database and hands out sessions: many that read, one at a time that writes.

SQLite runs in WAL mode with synchronous=NORMAL. What was acknowledged survives the death of the process at any
moment, because it lies in the log file by then; the operating system going down can cost the last commits (never the
integrity of the file), which FULL would save at the price of one fsync for each batch. Power loss in mid-ingest is
rare and costs seconds of telemetry, so the throughput was preferred.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from api.store.faults import RESTORE, translated
from api.store.migrate import upgrade
from tokenstone.errors import InvalidValue, NotWritable, StoreDamaged

__all__ = ["Session", "Store", "open_store"]

BUSY_SECONDS = 10
QUICK_CHECK_BYTES = 256_000_000
"""Largest SQLite file that is checked whole at start: about a second on a laptop."""


class Store:
    """A database with today's schema."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.where = engine.url.render_as_string(hide_password=True)
        # SQLite takes one writer; waiting here is fair, and cheaper than polling its lock.
        self._turn: AbstractContextManager[Any] = threading.Lock() if _is_sqlite(engine.url) else nullcontext()
        self._writing_engine = engine.execution_options(tokenstone_writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one moment of the database. Raises StoreDamaged or OperationError."""
        with translated(self.where), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are stored whole at the end, or not at all. Raises as `reading`, and NotWritable."""
        with translated(self.where), self._turn, Session(self._writing_engine) as session, session.begin():
            yield session

    def check(self) -> None:
        """Raise StoreDamaged unless the database answers."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_store(url_text: str) -> Store:
    """Open the database, make it if there is none, and bring its schema up to date.

    Raises InvalidValue for the URL, NotWritable, and StoreDamaged for a database that is broken or not ours.
    """
    url = _parsed(url_text)
    if _is_sqlite(url):
        _check_sqlite_file(url)
    engine = _engine(url)
    store = Store(engine)
    try:
        with translated(store.where):
            if _is_sqlite(url):
                _quick_check(engine, store.where)
            with store.writing() as session:
                upgrade(session.connection(), store.where)
    except BaseException:
        store.close()
        raise
    return store


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _parsed(text: str) -> URL:
    hint = "use sqlite:////path/to/file.db or postgresql+psycopg://user@host/name"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # The text may hold a password, so it is not repeated.
        raise InvalidValue("not a database URL", where="--database", hint=hint) from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise InvalidValue(f"no support for {url.get_backend_name()!r}", where="--database", hint=hint)
    if _is_sqlite(url) and url.database in {None, "", ":memory:"}:
        raise InvalidValue("a database in memory would forget everything", where="--database", hint=hint)
    return url


def _check_sqlite_file(url: URL) -> None:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with path.open("ab"):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotWritable(
            f"the database file cannot be written: {reason}",
            where=str(path),
            hint="choose another --data or --database",
        ) from error


def _engine(url: URL) -> Engine:
    hint = "install its driver, or name another in the URL"
    try:
        if not _is_sqlite(url):
            return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=30)
        engine = create_engine(url, pool_size=10, max_overflow=30, connect_args={"timeout": BUSY_SECONDS})
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidValue(f"no driver for {url.drivername!r}: {error}", where="--database", hint=hint) from error
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own idea of when a transaction begins is switched off: `_begin_sqlite` says when.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that has read first could not wait for it any more.
    writes = connection.get_execution_options().get("tokenstone_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _quick_check(engine: Engine, where: str) -> None:
    if Path(str(engine.url.database)).stat().st_size > QUICK_CHECK_BYTES:
        return
    with engine.connect() as connection:
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        raise StoreDamaged(f"the database is damaged: {found}", where=where, hint=RESTORE)
