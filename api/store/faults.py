"""What the database says when it fails, in words that tell what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from tokenstone.errors import NotWritable, OperationError, StoreDamaged

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_NOT_WRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_IOERR")
RESTORE = "restore it from a backup, or move it aside and start with an empty one"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn failures of the database `where` into StoreDamaged, NotWritable or OperationError.

    What follows from a mistake of ours (a broken constraint, a wrong statement) stays what it is.
    """
    try:
        yield
    except sqlite3.Error as error:  # while connecting, before SQLAlchemy wraps it
        raise _sqlite(error, where) from error
    except (exc.OperationalError, exc.DatabaseError) as error:
        if isinstance(error.orig, sqlite3.Error):
            if type(error) not in {exc.OperationalError, exc.DatabaseError}:
                raise
            raise _sqlite(error.orig, where) from error
        if isinstance(error, exc.OperationalError):
            what = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
            raise StoreDamaged(
                f"the database cannot be used: {what}", where=where, hint="check the URL and that it runs"
            ) from error
        raise


def _sqlite(error: sqlite3.Error, where: str) -> OperationError:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(_DAMAGED):
        return StoreDamaged(f"the database is damaged: {error}", where=where, hint=RESTORE)
    if code.startswith("SQLITE_FULL"):
        return NotWritable("the disk is full", where=where, hint="make room; nothing was stored by halves")
    if code.startswith(_NOT_WRITABLE):
        return NotWritable(f"the database cannot be written: {error}", where=where, hint="check its owner and mode")
    if code.startswith("SQLITE_BUSY"):
        return OperationError("the database is held by another program", where=where, hint="end it, or try again")
    return StoreDamaged(f"the database cannot be used: {error}", where=where, hint=RESTORE)
