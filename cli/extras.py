"""What is optional may be missing: say how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenstone.errors import MissingExtra


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import of another's package into MissingExtra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(extra, error.name or "a package") from error
