"""From a URL to database engines: one that writes and one that reads, set up for what they do.

SQLite runs in WAL mode with synchronous=NORMAL. What was acknowledged survives the death of the process at any
moment, because it lies in the log file by then; the operating system going down can cost the last commits (never the
integrity of the file), which FULL would save at the price of one fsync for each batch. Power loss in mid-ingest is
rare and costs seconds of telemetry, so the throughput was preferred. PostgreSQL keeps its own promise (an fsync for
each commit, unless its administrator says otherwise).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from tokenstone.errors import InvalidValue, MissingExtra, NotWritable

BUSY_SECONDS = 10
CONNECT_SECONDS = 5
_CACHE_KIBIBYTES = {"write": 65_536, "read": 8_192}
_LOG_BYTES = 64_000_000
"""Length to which the log file of SQLite is cut after it has been copied into the database."""
_HINT = "use sqlite:////path/to/file.db or postgresql://user@host/name"


class Engines(NamedTuple):
    """The same database twice."""

    writing: Engine
    reading: Engine


def parsed(text: str) -> URL:
    """Read a database URL; raises InvalidValue, which never repeats the text, because it may hold a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InvalidValue("not a database URL", where="--database", hint=_HINT) from error
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise InvalidValue(f"no support for {url.get_backend_name()!r}", where="--database", hint=_HINT)
    if is_sqlite(url) and url.database in {None, "", ":memory:"}:
        raise InvalidValue("a database in memory would forget everything", where="--database", hint=_HINT)
    return url


def is_sqlite(url: URL) -> bool:
    """Say which of the two databases it is."""
    return url.get_backend_name() == "sqlite"


def check_sqlite_file(url: URL) -> None:
    """Make the database's file where there is none; raises NotWritable."""
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with path.open("ab"):
            pass
    except OSError as error:
        raise NotWritable.of(
            "the database file cannot be written",
            error,
            where=str(path),
            otherwise="choose another --data or --database",
        ) from error  # fmt: skip


def make_engines(url: URL) -> Engines:
    """Make the engines; nothing is connected yet. Raises InvalidValue or MissingExtra for the driver."""
    try:
        return _sqlite_engines(url) if is_sqlite(url) else _postgresql_engines(url)
    except ModuleNotFoundError as error:
        if error.name == "psycopg":
            raise MissingExtra("postgres", "psycopg") from error
        raise _no_driver(url, error) from error
    except NoSuchModuleError as error:
        raise _no_driver(url, error) from error


def _no_driver(url: URL, error: Exception) -> InvalidValue:
    hint = "name another driver in the URL, or none"
    return InvalidValue(f"no driver for {url.drivername!r}: {error}", where="--database", hint=hint)


def _postgresql_engines(url: URL) -> Engines:
    # A connection that died with a restart of the server is noticed before it is used.
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=15,
        pool_timeout=BUSY_SECONDS,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    return Engines(engine, engine.execution_options(postgresql_readonly=True))


def _sqlite_engines(url: URL) -> Engines:
    def engine(purpose: str, **options: Any) -> Engine:
        made = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **options)

        def set_up(connection: Any, _record: Any) -> None:
            # The driver's own idea of when a transaction begins is switched off: `_begin` says when.
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIBIBYTES[purpose]}")
            if purpose == "read":
                connection.execute("PRAGMA query_only=ON")

        def begin(connection: Connection) -> None:
            # A writer takes the lock at once: one that has read first could not wait for it any more.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if purpose == "write" else "BEGIN")

        event.listen(made, "connect", set_up)
        event.listen(made, "begin", begin)
        return made

    return Engines(engine("write", pool_size=1, max_overflow=1), engine("read", pool_size=10, max_overflow=30))
