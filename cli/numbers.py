"""Checks of the numbers that people type."""

from __future__ import annotations

import math

from tokenstone.errors import InvalidValue


def positive(value: float, option: str, *, most: float = 1e30) -> float:
    """Return the value if it is finite, above 0 and not absurd; raises InvalidValue."""
    if not math.isfinite(value) or not 0 < value <= most:
        raise InvalidValue(
            f"{value:g} is not possible here", where=option, hint=f"give a number above 0, at most {most:g}"
        )
    return value


def not_negative(value: float, option: str, *, most: float = 1e30) -> float:
    """Return the value if it is finite, 0 or above and not absurd; raises InvalidValue."""
    if not math.isfinite(value) or not 0 <= value <= most:
        raise InvalidValue(f"{value:g} is not possible here", where=option, hint=f"give a number from 0 to {most:g}")
    return value


def count(value: float, option: str, *, most: float = 1e24) -> int:
    """Return a whole number that may have been written as 14.8e12; raises InvalidValue."""
    not_negative(value, option, most=most)
    if value != int(value):
        raise InvalidValue(f"{value:g} is not a whole number", where=option, hint="tokens are counted whole")
    return int(value)


def ratio(value: float, option: str) -> float:
    """Return a share from 0 to 1; raises InvalidValue."""
    return not_negative(value, option, most=1.0)
