"""Opens the database and hands out sessions: many that read, one at a time that writes."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from sqlalchemy import inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from api.store.connect import Engines, check_sqlite_file, is_sqlite, make_engines, parsed
from api.store.faults import RESTORE, translated
from api.store.known_nodes import KnownNodes
from api.store.migrate import downgrade, upgrade
from api.store.partitions import Partitions
from api.store.statements import take_turn
from tokenstone.errors import Conflict, StoreDamaged

__all__ = ["Session", "Store", "open_store"]

QUICK_CHECK_BYTES = 256_000_000
"""Largest SQLite file that is checked whole at start: about a second on a laptop."""


class Store:
    """A database. Made by `open_store`."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.where = url.render_as_string(hide_password=True)
        self._engines: Engines = make_engines(url)
        # SQLite takes one writer; waiting here is fair, and cheaper than polling its lock.
        self._turn: AbstractContextManager[Any] = threading.Lock() if is_sqlite(url) else nullcontext()
        self._lock: IO[bytes] | None = None
        self.partitions = Partitions()
        self._info = {"known_nodes": KnownNodes(), "partitions": self.partitions}

    @property
    def is_sqlite(self) -> bool:
        """Which of the two databases it is."""
        return is_sqlite(self.url)

    @property
    def file(self) -> Path:
        """The file of a SQLite database."""
        return Path(str(self.url.database))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one moment of the database and cannot change it.

        Raises StoreUnavailable, StoreDamaged or OperationError.
        """
        with translated(self.where), Session(self._engines.reading) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are stored whole at the end, or not at all.

        Raises as `reading`, and NotWritable and StoreFull.
        """
        with (
            translated(self.where),
            self._turn,
            Session(self._engines.writing, info=self._info) as session,
            session.begin(),
        ):
            yield session

    def check(self) -> None:
        """Raise StoreUnavailable or StoreDamaged unless the database answers."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def upgrade(self) -> tuple[str | None, str]:
        """Bring the schema up to date, in one transaction. Returns the schema before and the one now."""
        with self.writing() as session:
            take_turn(session, "schema")
            return upgrade(session.connection(), self.where)

    def downgrade(self, revision: str) -> tuple[str | None, str]:
        """Take the schema back, in one transaction. Returns the schema before and the one now."""
        with self.writing() as session:
            take_turn(session, "schema")
            return downgrade(session.connection(), revision, self.where)

    def make_partitions(self, *, now: float) -> None:
        """Make the partitions of the days to come, which only PostgreSQL has."""
        if not self.is_sqlite:
            with translated(self.where):
                self.partitions.make_ahead(self._engines.writing, now=now)

    def hold(self) -> None:
        """Keep a SQLite database for this process alone until `close`, or its death; raises Conflict.

        Two services on one file would not see each other's locks in their own process and prune each other's work.
        PostgreSQL serves several.
        """
        if not self.is_sqlite or self._lock is not None:
            return
        lock = self.file.with_name(f"{self.file.name}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise Conflict(
                "another service, or a restore, uses this database",
                where=str(self.file),
                hint="end it, choose another --data, or use PostgreSQL, which several services can share",
            ) from error
        self._lock = lock

    def table_names(self) -> list[str]:
        """Names of the tables that are there."""
        with self.reading() as session:
            return inspect(session.connection()).get_table_names()

    def close_connections(self) -> None:
        """Close every connection; they are opened again when they are needed."""
        for engine in self._engines:
            engine.dispose()

    def close(self) -> None:
        """Close every connection, and let the database go."""
        self.close_connections()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def open_store(url_text: str) -> Store:
    """Open the database for a service: make it if there is none, and bring its schema up to date.

    Raises InvalidValue for the URL, MissingExtra, NotWritable, Conflict where another service has it, StoreUnavailable,
    and StoreDamaged for a database that is broken or not ours.
    """
    store = connect(url_text)
    try:
        store.hold()
        with translated(store.where):
            if store.is_sqlite:
                _quick_check(store)
            store.upgrade()
    except BaseException:
        store.close()
        raise
    return store


def connect(url_text: str) -> Store:
    """The database as it is, beside a service that may be running. Raises as `open_store`."""
    url = parsed(url_text)
    if is_sqlite(url):
        check_sqlite_file(url)
    return Store(url)


def _quick_check(store: Store) -> None:
    if store.file.stat().st_size > QUICK_CHECK_BYTES:
        return
    with store.reading() as session:
        found = session.execute(text("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        raise StoreDamaged(f"the database is damaged: {found}", where=store.where, hint=RESTORE)
