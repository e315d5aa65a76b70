"""Pages by key: a page begins after the last row of the one before, so rows that arrive meanwhile shift nothing."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from tokenstone.errors import InvalidValue
from tokenstone.wire import Page

Row = TypeVar("Row")
Item = TypeVar("Item")


def encode_cursor(key: Sequence[int | float | str]) -> str:
    """Write a row's key as a cursor, which is opaque to clients."""
    return base64.urlsafe_b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> tuple[int | float | str, ...]:
    """Read a cursor whose parts are of `kinds`; raises InvalidValue."""
    try:
        key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except ValueError:
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != list(kinds) or not _storable(key):
        raise InvalidValue(
            "not a cursor of this list", where="query.cursor", hint="give `next_cursor` of the page before, unchanged"
        )
    return tuple(key)


def _storable(key: Sequence[int | float | str]) -> bool:
    return all(isinstance(part, str) or (math.isfinite(part) and abs(part) < 2**63) for part in key)


def make_page(
    rows: Sequence[Row],
    limit: int,
    *,
    item: Callable[[Row], Item],
    key: Callable[[Row], Sequence[int | float | str]],
) -> Page[Item]:
    """Make a page of at most `limit` of `rows`, of which one more was read to see whether there are more."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=[item(row) for row in shown], next_cursor=encode_cursor(key(shown[-1])) if more else None)
