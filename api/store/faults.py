"""What the database says when it fails, in words that tell what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from tokenstone.errors import NotWritable, OperationError, StoreDamaged, StoreFull, StoreUnavailable

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_NOT_WRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_IOERR")
_DISK_FULL = "53100"
_NO_SUCH_THING = {"42P01", "42703"}
"""SQLSTATE of PostgreSQL: no such table, no such column."""
RESTORE = "restore it from a backup, or move it aside and start with an empty one"
_AGAIN = "check the URL and that the database runs; the same request is worth a second attempt"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn failures of the database `where` into StoreDamaged, StoreUnavailable, StoreFull or NotWritable.

    What follows from a mistake of ours (a broken constraint, a wrong statement) stays what it is.
    """
    try:
        yield
    except sqlite3.Error as error:  # while connecting, before SQLAlchemy wraps it
        raise _sqlite(error, where) from error
    except exc.TimeoutError as error:
        raise StoreUnavailable("the database is busy: no connection came free", where=where, hint=_AGAIN) from error
    except exc.DatabaseError as error:
        if isinstance(error.orig, sqlite3.Error):
            if type(error) not in {exc.OperationalError, exc.DatabaseError}:
                raise
            raise _sqlite(error.orig, where) from error
        translation = _postgresql(error, where)
        if translation is None:
            raise
        raise translation from error


def _postgresql(error: exc.DatabaseError, where: str) -> OperationError | None:
    state = getattr(error.orig, "sqlstate", None)
    what = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
    if state == _DISK_FULL:
        return StoreFull(
            "the disk of the database is full", where=where, hint="make room; nothing was stored by halves"
        )
    if state in _NO_SUCH_THING:
        return StoreDamaged(f"the database is damaged: {what}", where=where, hint=RESTORE)
    if isinstance(error, exc.OperationalError) or error.connection_invalidated:
        return StoreUnavailable(f"the database cannot be used: {what}", where=where, hint=_AGAIN)
    return None


def _sqlite(error: sqlite3.Error, where: str) -> OperationError:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(_DAMAGED):
        return StoreDamaged(f"the database is damaged: {error}", where=where, hint=RESTORE)
    if code.startswith("SQLITE_FULL"):
        return StoreFull(
            "the disk of the database is full", where=where, hint="make room; nothing was stored by halves"
        )
    if code.startswith(_NOT_WRITABLE):
        return NotWritable(f"the database cannot be written: {error}", where=where, hint="check its owner and mode")
    if code.startswith("SQLITE_BUSY"):
        return StoreUnavailable("the database is held by another program", where=where, hint="end it, or try again")
    return StoreDamaged(f"the database cannot be used: {error}", where=where, hint=RESTORE)
