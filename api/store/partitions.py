"""Partitions of windows by day (UTC), on PostgreSQL: made ahead, dropped whole when their day is forgotten.

What lies outside of every day's partition (a batch that is very late, a clock that is ahead) goes to the default one.
A partition is made beside the table and attached, which blocks neither readers nor ingest; rows of that day that
waited in the default partition move over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from api.store.statements import take_turn

DAY = 86_400.0
DAYS_AHEAD = 3
DAYS_BACK = 31
"""A batch may have a partition made for a day that lies so far back; older windows go to the default partition."""
LOCK_MILLISECONDS = 500
LOCK_NOT_AVAILABLE = "55P03"
DEFAULT = "windows_default"
_COLUMNS = "series_id, start_unix_seconds, duration_seconds, count, mean, minimum, maximum, delta"


class Partitions:
    """The days that this process knows to have a partition."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def make(self, engine: Engine, starts: Iterable[float], *, now: float) -> None:
        """Make the partitions of the days of these windows. Cheap where they are there."""
        today = int(now // DAY)
        days = {int(start // DAY) for start in starts}
        wanted = {day for day in days if today - DAYS_BACK <= day <= today + DAYS_AHEAD}
        if wanted <= self._known:
            return
        try:
            with self._lock, engine.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}"))
                make_partitions(connection, sorted(wanted - self._known))
                self._known |= wanted
        except OperationalError as error:
            # A slow reader holds the default partition: it takes these windows, and gives them up later.
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise

    def make_ahead(self, engine: Engine, *, now: float) -> None:
        """Make the partitions of today and of the days to come."""
        self.make(engine, [now + day * DAY for day in range(DAYS_AHEAD + 1)], now=now)

    def forget(self) -> None:
        """Look again: partitions may have been dropped."""
        self._known = set()


def make_partitions(connection: Connection, days: Iterable[int]) -> None:
    """Make the partitions of some days (counted from 1970-01-01) where they are missing."""
    take_turn(connection, "partitions")
    present = set(partitions_of(connection))
    for day in days:
        name = partition_name(day)
        if name in present:
            continue
        begin, end = f"{day * DAY:.0f}", f"{(day + 1) * DAY:.0f}"
        within = f"start_unix_seconds >= {begin} AND start_unix_seconds < {end}"
        connection.execute(text(f"CREATE TABLE {name} (LIKE windows INCLUDING ALL)"))
        # No insert may slip into the default partition between the move and the attachment.
        connection.execute(text(f"LOCK TABLE {DEFAULT} IN SHARE ROW EXCLUSIVE MODE"))
        move = f"WITH moved AS (DELETE FROM {DEFAULT} WHERE {within} RETURNING {_COLUMNS}) "  # noqa: S608  our own names
        connection.execute(text(f"{move} INSERT INTO {name} ({_COLUMNS}) SELECT {_COLUMNS} FROM moved"))  # noqa: S608  our own names
        # With this check the attachment need not read the rows.
        connection.execute(text(f"ALTER TABLE {name} ADD CONSTRAINT {name}_day CHECK ({within})"))
        connection.execute(text(f"ALTER TABLE windows ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})"))
        connection.execute(text(f"ALTER TABLE {name} DROP CONSTRAINT {name}_day"))


def partitions_of(connection: Connection) -> list[str]:
    """Names of the partitions, the default one included, in order of time."""
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'windows'::regclass ORDER BY 1"
    return list(connection.execute(text(query)).scalars())


def partition_name(day: int) -> str:
    """The name of a day's partition.

    >>> partition_name(20_000)
    'windows_20241004'
    """
    return f"windows_{datetime.fromtimestamp(day * DAY, UTC):%Y%m%d}"


def day_of_partition(name: str) -> int | None:
    """The day of a partition, counted from 1970-01-01; None for the default one.

    >>> day_of_partition("windows_20241004"), day_of_partition("windows_default")
    (20000, None)
    """
    if name == DEFAULT:
        return None
    day = datetime.strptime(name.removeprefix("windows_"), "%Y%m%d").replace(tzinfo=UTC)
    return int(day.timestamp() // DAY)
