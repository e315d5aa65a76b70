"""The difference itemised: which ledger lines make B dearer than A, in one unit per million tokens.

A side's line is the arithmetic mean over its runs of the bill's line (only arithmetic means of sums are sums of means).
Where each side has one price p, a line is p · s / 3600 with s device-seconds per million tokens, and

    p_b s_b - p_a s_a  =  (s_b - s_a) (p_a + p_b) / 2   +   (p_b - p_a) (s_a + s_b) / 2
                          what time has done                what the price has done

Everything is worked out as exact fractions and then put on one binary grid, 2^-50 of the most device-seconds at the
higher price. Numbers on the grid add up without any rounding, in any order: lines to totals, both effects to the rest.

Worked example: A takes 3,240 device-seconds at $2 an hour, B 2,700 at $2.40. Both cost $1.80: the time has saved
540 s at $2.20, which is $0.33, and the price has cost $0.40 on 2,970 s, which is $0.33 again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from tokenstone.compare.side import Row, Side
from tokenstone.cost import Bill
from tokenstone.score.bottleneck import TITLES

_GRID_BITS = 50
_HOUR = Fraction(3600)


class ItemisedLine(Row):
    """One ledger category on both sides. `difference` is B - A: above 0 B spends more on it."""

    category: str
    title: str
    a: float
    b: float
    difference: float
    time_effect: float | None = None
    price_effect: float | None = None


class Itemised(Row):
    """The whole difference. All columns add up exactly."""

    unit: Literal["money", "device-seconds"]
    currency: str
    """Of `money`; empty for device-seconds."""
    per: str = "million tokens"
    lines: list[ItemisedLine]
    """Largest difference first."""
    total: ItemisedLine


def itemise(a: Side, b: Side, *, money: bool) -> Itemised | None:
    """Set the bills of two sides against each other; None where a run has no bill, or no price with `money`."""
    bills = [[run.bill for run in side.runs if run.bill is not None] for side in (a, b)]
    if not all(bills) or any(len(found) < len(side.runs) for found, side in zip(bills, (a, b), strict=True)):
        return None
    prices: list[Fraction | None] = [
        Fraction(side.usd_per_device_hour) if money and side.usd_per_device_hour is not None else None
        for side in (a, b)
    ]
    if money and None in prices:
        return None
    seconds = [_mean_seconds(found) for found in bills]
    rates = [Fraction(1) if p is None else p / _HOUR for p in prices]
    names = list(dict.fromkeys(name for side in seconds for name in side))
    grid = _grid(max(sum(side.values()) for side in seconds) * max(rates))  # no effect is larger than that
    lines = [_line(name, seconds, rates, grid) for name in names]
    lines.sort(key=lambda line: -abs(line.difference))
    return Itemised(
        unit="money" if money else "device-seconds", currency=a.currency if money else "", lines=lines,
        total=_total(lines),
    )  # fmt: skip


def _mean_seconds(bills: Sequence[Bill]) -> dict[str, Fraction]:
    """Device-seconds per million tokens by category, exactly; the mean over runs."""
    sums: dict[str, Fraction] = {}
    for bill in bills:
        for line in bill.lines:
            share = Fraction(line.device_seconds) * 1_000_000 / bill.tokens / len(bills)
            sums[line.category] = sums.get(line.category, Fraction(0)) + share
    return sums


def _grid(largest: Fraction) -> Fraction:
    """A power of two that is 2^-50 of the largest figure: three bits are left for sums."""
    exponent = math.frexp(float(largest))[1] if largest else 0
    return Fraction(2) ** max(exponent - _GRID_BITS, -1000)


def _line(name: str, seconds: list[dict[str, Fraction]], rates: list[Fraction], grid: Fraction) -> ItemisedLine:
    s_a, s_b = (side.get(name, Fraction(0)) for side in seconds)
    p_a, p_b = rates
    a, b = _round(s_a * p_a, grid), _round(s_b * p_b, grid)
    time = _round((s_b - s_a) * (p_a + p_b) / 2, grid)
    split = p_a != p_b
    return ItemisedLine(
        category=name, title=TITLES.get(name, name), a=float(a), b=float(b), difference=float(b - a),
        time_effect=float(time) if split else None, price_effect=float(b - a - time) if split else None,
    )  # fmt: skip


def _round(value: Fraction, grid: Fraction) -> Fraction:
    return round(value / grid) * grid


def _total(lines: Sequence[ItemisedLine]) -> ItemisedLine:
    split = bool(lines) and lines[0].time_effect is not None
    return ItemisedLine(
        category="total", title="total", a=math.fsum(line.a for line in lines), b=math.fsum(line.b for line in lines),
        difference=math.fsum(line.difference for line in lines),
        time_effect=math.fsum(line.time_effect or 0.0 for line in lines) if split else None,
        price_effect=math.fsum(line.price_effect or 0.0 for line in lines) if split else None,
    )  # fmt: skip
