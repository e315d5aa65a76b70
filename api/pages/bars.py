"""The ledger as a picture: stacked bars, and the legend that goes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from api.pages.format import decimals, fixed, money_decimals, percent
from api.pages.palette import CATEGORIES, Category
from tokenstone.ledger import TOLERANCE
from tokenstone.report import Report, Section

_NOISE = 1e-9
"""Share of the allocation below which a category is rounding, not time."""
_PIXELS_WIDE, _PIXELS_NARROW, _PIXELS_A_LETTER = 900, 330, 8.5
"""Widths of a bar on a desktop and on a phone, and of a letter: what label fits into a segment."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One category of a bar; position and width in percent of the bar."""

    category: Category
    left: float
    width: float
    wide_label: str
    narrow_label: str
    hint: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Where the device-seconds of one run, or of all, went."""

    title: str
    amount: str
    segments: list[Segment]
    description: str
    kind: str = "Ledger"
    """What a reader who cannot see it is told that it is."""


@dataclass(frozen=True, slots=True)
class LegendRow:
    """One category over all runs. `category` is None for seconds that the ledger does not account for."""

    category: Category | None
    share: str
    seconds: str
    usd: str


@dataclass(frozen=True, slots=True)
class Legend:
    """The categories that took time, those that took none, and the totals."""

    rows: list[LegendRow]
    empty: list[Category]
    total_share: str
    """Empty where the ledger does not balance."""
    total_seconds: str
    total_usd: str


def shown(seconds: Mapping[str, float]) -> list[Category]:
    """Return the categories that took time, in the order of drawing."""
    total = math.fsum(seconds.values())
    return [category for name, category in CATEGORIES.items() if seconds.get(name, 0.0) > _NOISE * total]


def ledger_bars(report: Report) -> list[Bar]:
    """Return one bar of all runs together, and one a run where there are several."""
    sections = report.sections
    each = [_bar(run_title(section), section.evaluation.ledger.seconds) for section in sections]
    if len(each) == 1:
        return each
    return [_bar("All runs", report.ledger_seconds), *each]


def run_title(section: Section) -> str:
    """Return what a run is called on the page."""
    return f"{section.kind.capitalize()} {section.run.run_id}"


def _bar(title: str, seconds: Mapping[str, float]) -> Bar:
    categories = shown(seconds)
    total = math.fsum(seconds[category.name] for category in categories)
    amount = f"{fixed(total, decimals(total, digits=3))} device-seconds"
    return stacked_bar(title, amount, [(category, seconds[category.name]) for category in categories])


def stacked_bar(title: str, amount: str, parts: Sequence[tuple[Category, float]], *, kind: str = "Ledger") -> Bar:
    """Return a bar of parts side by side, each as wide as its share of them all."""
    total = math.fsum(value for _, value in parts)
    segments: list[Segment] = []
    left = 0.0
    for category, value in parts:
        if value > _NOISE * total:
            segments.append(_segment(category, left, value / total))
            left += 100 * value / total
    return Bar(title, amount, segments, f"{amount}: {', '.join(segment.hint for segment in segments)}", kind)


def _segment(category: Category, left: float, ratio: float) -> Segment:
    share = percent(ratio)
    named = f"{category.title} {share}"
    wide = next(
        (text for text in (named, f"{category.short} {share}".strip(), share) if _fits(text, ratio * _PIXELS_WIDE)), ""
    )
    narrow = share if _fits(share, ratio * _PIXELS_NARROW) else ""
    return Segment(category, left, 100 * ratio, wide, narrow, named)


def _fits(text: str, pixels: float) -> bool:
    return len(text) * _PIXELS_A_LETTER + 14 <= pixels


def legend(report: Report) -> Legend:
    """Return the legend of all bars: share, device-seconds and, where there is a price, dollars over all runs."""
    seconds = report.ledger_seconds
    total = math.fsum(seconds.values())
    places = decimals(total)
    usd = {line.category: line.usd for line in report.bill.lines} if report.bill else {}
    total_usd = report.bill.usd if report.bill else None
    usd_places = money_decimals(total_usd or 0.0)
    rows = [
        LegendRow(
            category,
            percent(seconds[category.name] / total),
            fixed(seconds[category.name], places),
            _dollars(usd.get(category.name), usd_places),
        )
        for category in shown(seconds)
    ]
    residual = report.allocated_seconds - total
    is_balanced = abs(residual) <= TOLERANCE * report.allocated_seconds
    if not is_balanced:
        rows.append(LegendRow(None, "", fixed(residual, places), ""))
    names = {row.category.name for row in rows if row.category}
    return Legend(
        rows=rows,
        empty=[category for name, category in CATEGORIES.items() if name in seconds and name not in names],
        total_share="100%" if is_balanced else "",
        total_seconds=fixed(report.allocated_seconds, places),
        total_usd=_dollars(total_usd, usd_places),
    )


def _dollars(usd: float | None, places: int) -> str:
    return "" if usd is None else fixed(usd, places, "$")
