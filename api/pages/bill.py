"""The itemised bill as a table: a row a category, a column a kind of token, lines that add up to the total."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from api.pages.bars import shown
from api.pages.format import count, decimals, fixed, money_decimals
from api.pages.palette import Category
from tokenstone.cost import IDLE_CATEGORIES, MILLION, Bill
from tokenstone.report import Report, Section

NOT_A_LINE = "–"
"""Stands where a category does not exist for that kind of token."""
_KINDS = {"trained": "Training", "input": "Input", "output": "Output", "all": "All tokens"}


@dataclass(frozen=True, slots=True)
class Column:
    """One kind of token."""

    title: str
    run_id: str
    """Told only where several columns would have the same title."""
    tokens: str


@dataclass(frozen=True, slots=True)
class BillRow:
    """One category, or one other view of the same cost; a cell a column, empty where it does not apply."""

    title: str
    category: Category | None
    cells: list[str]


@dataclass(frozen=True, slots=True)
class BillTable:
    """The bill in `unit` per million tokens."""

    unit: str
    columns: list[Column]
    rows: list[BillRow]
    totals: list[str]
    others: list[BillRow]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A bill, the run that it is of, and that run's other bills."""

    bill: Bill
    section: Section | None


def bill_table(report: Report) -> BillTable | None:
    """Return the table; None where there is no bill."""
    entries = list(_entries(report))
    if not entries:
        return None
    seconds: dict[str, float] = {}
    for entry in entries:
        for line in entry.bill.lines:
            seconds[line.category] = seconds.get(line.category, 0.0) + max(0.0, line.device_seconds)
    categories = shown(seconds)
    titles = Counter(entry.bill.token_kind for entry in entries)
    columns = [
        Column(
            _KINDS[entry.bill.token_kind],
            entry.section.run.run_id if entry.section and titles[entry.bill.token_kind] > 1 else "",
            f"{count(entry.bill.tokens)} tokens",
        )
        for entry in entries
    ]
    lines = [{line.category: line for line in entry.bill.lines} for entry in entries]
    rows = []
    for category in categories:
        cells = []
        for entry, by_category in zip(entries, lines, strict=True):
            line = by_category.get(category.name)
            cells.append(
                NOT_A_LINE
                if line is None
                else _cell(entry.bill, line.device_seconds_per_million_tokens, line.usd_per_million_tokens)
            )
        rows.append(BillRow(category.title, category, cells))
    return BillTable(
        unit="device-seconds" if report.price is None else "$",
        columns=columns,
        rows=rows,
        totals=[_of(entry.bill, entry.bill) for entry in entries],
        others=list(_others(entries)),
    )


def _entries(report: Report) -> Iterator[_Entry]:
    """Yield the bills of the runs in order, then the one of all tokens where it says more."""
    entries = []
    for section in report.sections:
        e = section.evaluation
        bills = [e.bill] if section.kind == "training" else [e.input_bill, e.output_bill]
        entries += [_Entry(bill, section) for bill in bills if bill is not None]
    yield from entries
    if len(entries) > 1 and report.bill is not None:
        yield _Entry(report.bill, None)


def _others(entries: list[_Entry]) -> Iterator[BillRow]:
    """Yield other views of the same cost, each only where it differs or applies."""
    yield BillRow("Without idle time (usage basis)", None, [_usage(entry.bill) for entry in entries])
    uncached = [
        _of(entry.section.evaluation.uncached_input_bill, entry.bill)
        if entry.section and entry.bill.token_kind == "input" and entry.section.evaluation.tokens.cached_input
        else ""
        for entry in entries
    ]
    if any(uncached):
        yield BillRow("By uncached input only", None, uncached)
    good = [
        _of(entry.section.evaluation.goodput_bill, entry.bill) or "no token met it"
        if entry.section and entry.bill.token_kind == "output" and _has_objective(entry.section)
        else ""
        for entry in entries
    ]
    if any(good):
        yield BillRow("By output within the objective (goodput)", None, good)


def _has_objective(section: Section) -> bool:
    return section.run.spec.kind == "inference" and section.run.spec.objective is not None


def _usage(bill: Bill) -> str:
    used = math.fsum(line.device_seconds for line in bill.lines if line.category not in IDLE_CATEGORIES)
    return _cell(bill, used / bill.tokens * MILLION, bill.usage_usd_per_million_tokens)


def _of(bill: Bill | None, column: Bill) -> str:
    """The total of `bill` with the decimals of the column's."""
    if bill is None:
        return ""
    return _cell(column, bill.device_seconds_per_million_tokens, bill.usd_per_million_tokens)


def _cell(column: Bill, device_seconds: float, usd: float | None) -> str:
    total = column.usd_per_million_tokens
    if usd is None or total is None:
        return fixed(device_seconds, decimals(column.device_seconds_per_million_tokens))
    return fixed(usd, money_decimals(total), "$")
