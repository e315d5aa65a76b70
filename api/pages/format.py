"""How figures are written on a page: thousands separators, digits that mean something, units always. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from tokenstone.score.bottleneck import money

__all__ = ["ago", "count", "decimals", "duration", "fixed", "money", "money_decimals", "percent", "si", "utc"]

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: int) -> str:
    """Write a whole number.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,}"


def decimals(largest: float, *, digits: int = 4, least: int = 0) -> int:
    """Return how many decimals show `largest` with `digits` significant digits, but not fewer than `least`.

    >>> decimals(270.3), decimals(4327.0), decimals(0.00751, digits=3)
    (1, 0, 5)
    """
    if largest <= 0:
        return least
    return max(least, digits - 1 - math.floor(math.log10(largest)))


def money_decimals(total: float) -> int:
    """Return the decimals of a column of dollars with this total: four digits, whole cents at least.

    >>> money_decimals(0.00751), money_decimals(1.9), money_decimals(1234.5)
    (6, 3, 2)
    """
    return decimals(total, digits=4, least=2)


def fixed(value: float, places: int, unit: str = "") -> str:
    """Write with `places` decimals, `unit` before it. What is above zero never reads as zero.

    >>> fixed(1234.567, 1), fixed(0.00004, 3, "$"), fixed(0.0, 3, "$"), fixed(-1e-12, 2)
    ('1,234.6', '<$0.001', '$0', '0')
    """
    if value == 0 or abs(value) < 1e-9 * 10.0**-places:
        return f"{unit}0"
    if 0 < value <= 0.5 * 10.0**-places:  # a half is rounded to even, which is 0
        return f"<{unit}{10.0**-places:.{places}f}"
    return f"{'-' if value < 0 else ''}{unit}{abs(value):,.{places}f}"


def percent(ratio: float) -> str:
    """Write a share with one decimal.

    >>> percent(0.4216), percent(1.0), percent(0.0), percent(0.0002), percent(0.9999)
    ('42.2%', '100%', '0%', '<0.1%', '>99.9%')
    """
    if ratio in {0, 1}:
        return f"{ratio:.0%}"
    if 0 < ratio < 0.0005:
        return "<0.1%"
    if 0.9995 <= ratio < 1:
        return ">99.9%"
    return f"{ratio:.1%}"


def si(value: float, unit: str) -> str:
    """Write with three digits and a decimal prefix.

    >>> si(306e9, "FLOP/s"), si(24.6e9, "B/s"), si(12.0, "B/s"), si(2.5e18, "FLOP/s")
    ('306 GFLOP/s', '24.6 GB/s', '12 B/s', '2,500 PFLOP/s')
    """
    for size, prefix in _SI:
        if value >= size:
            return f"{_three(value / size)} {prefix}{unit}"
    return f"{_three(value)} {unit}"


def duration(seconds: float) -> str:
    """Write a length of time in the two units that matter.

    >>> duration(23.21), duration(0.25), duration(252), duration(12000)
    ('23.2 s', '0.25 s', '4 min 12 s', '3 h 20 min')
    """
    if seconds < 60:
        return f"{_three(seconds)} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {rest} min"


def utc(unix_seconds: float) -> str:
    """Write an instant.

    >>> utc(1795000060.0)
    '2026-11-18 11:07:40 UTC'
    """
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(unix_seconds: float | None, now: float) -> str:
    """Write how long ago something was; a clock that is ahead reads as now.

    >>> ago(940.0, 1000.0), ago(None, 1.0), ago(1e9, 1e9 + 200000)
    ('1 min ago', 'never', '2 days ago')
    """
    if unix_seconds is None:
        return "never"
    seconds = max(0.0, now - unix_seconds)
    for size, unit in ((86_400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{count(number)} {unit}{'s' if unit == 'day' and number > 1 else ''} ago"
    return "just now"


def _three(value: float) -> str:
    """Three significant digits, whole digits always kept."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
