"""The itemised bill as a table: a row a category, a column a kind of token, lines that add up to the total."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from api.pages.bars import shown
from api.pages.format import count, decimals, fixed, money_decimals
from api.pages.palette import Category
from tokenstone.cost import IDLE_CATEGORIES, MILLION, Bill
from tokenstone.report import Report, Section
from tokenstone.run import InferenceSpec

NOT_A_LINE = "–"
"""Stands where a category does not exist for that kind of token."""


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
    """What a column shows: a bill, and the run that it is of (None for all runs together)."""

    kind: Literal["Training", "Input", "Output", "All tokens"]
    bill: Bill
    section: Section | None


def bill_table(report: Report) -> BillTable | None:
    """Return the table; None where there is no bill."""
    entries = list(_entries(report))
    if not entries:
        return None
    same_kind = Counter(entry.kind for entry in entries)
    return BillTable(
        unit="device-seconds" if report.price is None else "$",
        columns=[
            Column(
                entry.kind,
                entry.section.run.run_id if entry.section and same_kind[entry.kind] > 1 else "",
                f"{count(entry.bill.tokens)} tokens",
            )
            for entry in entries
        ],
        rows=list(_lines(entries)),
        totals=[_total(entry.bill, entry.bill) for entry in entries],
        others=list(_others(entries)),
    )


def _entries(report: Report) -> Iterator[_Entry]:
    """Yield the bills of the runs in order, then the one of all tokens where it says more."""
    entries: list[_Entry] = []
    for section in report.sections:
        e = section.evaluation
        if section.kind == "training" and e.bill:
            entries.append(_Entry("Training", e.bill, section))
        if e.input_bill:
            entries.append(_Entry("Input", e.input_bill, section))
        if e.output_bill:
            entries.append(_Entry("Output", e.output_bill, section))
    yield from entries
    is_whole = len(report.sections) == 1 and [entry.kind for entry in entries] == ["Training"]
    if report.bill is not None and not is_whole:
        yield _Entry("All tokens", report.bill, None)


def _lines(entries: list[_Entry]) -> Iterator[BillRow]:
    """Yield a row for each category that took time in any column."""
    by_column = [{line.category: line for line in entry.bill.lines} for entry in entries]
    seconds: dict[str, float] = {}
    for lines in by_column:
        for name, line in lines.items():
            seconds[name] = seconds.get(name, 0.0) + max(0.0, line.device_seconds)
    for category in shown(seconds):
        found = [lines.get(category.name) for lines in by_column]
        cells = [
            _cell(entry.bill, line.device_seconds_per_million_tokens, line.usd_per_million_tokens)
            if line
            else NOT_A_LINE
            for entry, line in zip(entries, found, strict=True)
        ]
        yield BillRow(category.title, category, cells)


def _others(entries: list[_Entry]) -> Iterator[BillRow]:
    """Yield other views of the same cost, each only where it applies."""
    rows = {
        "Without idle time (usage basis)": [_usage(entry.bill) for entry in entries],
        "By uncached input only": [_uncached(entry) for entry in entries],
        "By output within the objective (goodput)": [_goodput(entry) for entry in entries],
    }
    for title, cells in rows.items():
        if any(cells):
            yield BillRow(title, None, cells)


def _usage(bill: Bill) -> str:
    used = math.fsum(line.device_seconds for line in bill.lines if line.category not in IDLE_CATEGORIES)
    return _cell(bill, used / bill.tokens * MILLION, bill.usage_usd_per_million_tokens)


def _uncached(entry: _Entry) -> str:
    """The input's cost borne by what no cache held; empty where nothing was cached."""
    if entry.kind != "Input" or entry.section is None or not entry.section.evaluation.tokens.cached_input:
        return ""
    return _total(entry.section.evaluation.uncached_input_bill, entry.bill) or "all of it was cached"


def _goodput(entry: _Entry) -> str:
    """The output's cost borne by the tokens of requests that met the objective; empty without one."""
    if entry.kind != "Output" or entry.section is None:
        return ""
    spec = entry.section.run.spec
    if not isinstance(spec, InferenceSpec) or spec.objective is None:
        return ""
    return _total(entry.section.evaluation.goodput_bill, entry.bill) or "none met it"


def _total(bill: Bill | None, column: Bill) -> str:
    """The total of `bill` with the digits of its column; empty without one."""
    if bill is None:
        return ""
    return _cell(column, bill.device_seconds_per_million_tokens, bill.usd_per_million_tokens)


def _cell(column: Bill, device_seconds: float, usd: float | None) -> str:
    total = column.usd_per_million_tokens
    if usd is None or total is None:
        return fixed(device_seconds, decimals(column.device_seconds_per_million_tokens))
    return fixed(usd, money_decimals(total), "$")
