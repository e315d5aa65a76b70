"""The roofline: speed against FLOPs per byte, the hardware's limits, and what a run reached.

A kernel of intensity i (FLOPs per byte of memory traffic) is limited to min(peak, i x bandwidth): Williams, Waterman
and Patterson 2009. Both axes are logarithmic: the limit by memory is a slanted line, the one by arithmetic a flat one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from api.pages.axis import Axis, Tick, log_axis
from api.pages.format import decimals, fixed, percent, si


@dataclass(frozen=True, slots=True)
class Limit:
    """A peak of arithmetic, and the bandwidth of memory that feeds it (None where it is not known)."""

    name: str
    flops_per_second: float
    bytes_per_second: float | None


@dataclass(frozen=True, slots=True)
class Reached:
    """Work of one intensity, and how fast it went. `intensity` None: its traffic is not known; then it is a line."""

    name: str
    intensity: float | None
    flops_per_second: float
    weight: float = 1.0
    """Share of the time, which is the area of the mark."""
    look: Literal["first", "second"] = "first"


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line of the chart, from (x1, y1) to (x2, y2) in percent, y downwards."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    look: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A round mark."""

    x: float
    y: float
    radius: float
    look: str
    hint: str


@dataclass(frozen=True, slots=True)
class RooflineChart:
    """The chart, ready to be drawn; all places in percent of the plot, y downwards."""

    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    roofs: list[Line]
    levels: list[Line]
    marks: list[Mark]
    legend: list[tuple[str, str]]
    """Look and name of each kind of mark."""


def roofline_chart(limits: Sequence[Limit], reached: Sequence[Reached] = ()) -> RooflineChart | None:
    """Return the chart of these limits and what was reached; None without a limit."""
    if not limits:
        return None
    points = [(r, r.intensity) for r in reached if r.intensity and r.flops_per_second > 0]
    levels = [r for r in reached if r.intensity is None and r.flops_per_second > 0]
    ridges = [limit.flops_per_second / limit.bytes_per_second for limit in limits if limit.bytes_per_second]
    x = log_axis([*(i for _, i in points), *ridges, *(r * 10 for r in ridges), *(r / 100 for r in ridges), 1.0])
    slowest = min([r.flops_per_second for r in (*(r for r, _ in points), *levels)], default=float("inf"))
    peaks = [limit.flops_per_second for limit in limits]
    y = log_axis([min(slowest, min(peaks) / 100), max(peaks) * 1.2])
    kinds = dict.fromkeys((r.look, r.name) for r, _ in points)
    return RooflineChart(
        description=_description(limits, reached),
        x_ticks=x.ticks(lambda value: f"{value:,.0f}" if value >= 1 else f"{value:g}"),
        y_ticks=[Tick(100 - t.at, t.label) for t in y.ticks(lambda value: si(value, "FLOP/s"))],
        roofs=[line for limit in limits for line in _roof(limit, x, y)],
        levels=[
            Line(0, 100 - y.at(r.flops_per_second), 100, 100 - y.at(r.flops_per_second),
                 f"{r.name}: {si(r.flops_per_second, 'FLOP/s')}", r.look)
            for r in levels
        ],
        marks=[_mark(r, x.at(i), 100 - y.at(r.flops_per_second)) for r, i in points],
        legend=list(kinds),
    )  # fmt: skip


def _mark(r: Reached, x: float, y: float) -> Mark:
    speed = f"{si(r.flops_per_second, 'FLOP/s')} at {_digits(r.intensity or 0.0)} FLOP per byte"
    hint = f"{r.name}: {speed}, {percent(r.weight)} of the time"
    return Mark(x, y, 3 + 9 * min(1.0, r.weight) ** 0.5, r.look, hint)


def _digits(value: float) -> str:
    return fixed(value, decimals(value, digits=3))


def _roof(limit: Limit, x: Axis, y: Axis) -> list[Line]:
    top = 100 - y.at(limit.flops_per_second)
    label = f"{limit.name}: {si(limit.flops_per_second, 'FLOP/s')}"
    if limit.bytes_per_second is None:
        return [Line(0, top, 100, top, label)]
    # The slanted line begins where it enters the plot: at its left edge or at its lower one.
    start = max(x.low, y.low / limit.bytes_per_second)
    ridge = limit.flops_per_second / limit.bytes_per_second
    flat = Line(x.at(ridge), top, 100, top, label)
    slanted = Line(x.at(start), 100 - y.at(start * limit.bytes_per_second), x.at(ridge), top)
    return [slanted, flat]


def _description(limits: Sequence[Limit], reached: Sequence[Reached]) -> str:
    told = []
    for limit in limits:
        told.append(f"{limit.name} reaches {si(limit.flops_per_second, 'FLOP/s')}")
        if limit.bytes_per_second:
            told.append(f"from {_digits(limit.flops_per_second / limit.bytes_per_second)} FLOP per byte on")
    fastest = max(reached, key=lambda r: r.flops_per_second, default=None)
    if fastest is not None:
        share = fastest.flops_per_second / max(limit.flops_per_second for limit in limits)
        told.append(f"the fastest mark, {fastest.name}, is at {percent(share)} of the highest peak")
    return "; ".join(told)
