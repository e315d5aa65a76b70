"""Reports and comparisons as one tidy table (CSV): one figure a row, the same columns in every document.

document   report, cluster or comparison
subject    whom the figure is of: a run id, A, B, B/A, B-A, a spec id, or the document as a whole (empty)
section    verdict, metric, itemised, ledger, bill, panel, latency, curve, break_even, noise_floor, environment, ...
item       which figure of the section
unit       of `value`, `low` and `high`
value      the number; empty where it is absent, and `text` says why
low, high  ends of the 95 % interval
text       what is no number: names, sentences, reasons
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

from tokenstone.cluster_report import ClusterReport
from tokenstone.compare import Comparison, MetricRatio, Side
from tokenstone.compare.curve import ObjectiveCurve
from tokenstone.compare.figures import METRICS
from tokenstone.compare.itemise import ItemisedLine
from tokenstone.report import Report, Section

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Figure(NamedTuple):
    """A row."""

    document: str
    subject: str
    section: str
    item: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = ""


def tidy_csv(document: Report | ClusterReport | Comparison) -> str:
    """Return the table, with a head row. Text that a spreadsheet would run as a formula begins with an apostrophe."""
    if isinstance(document, Comparison):
        rows = _comparison(document)
    else:
        rows = _cluster(document) if isinstance(document, ClusterReport) else _report(document)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Figure._fields)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(float(value))
    text = " ".join(value.replace("\x00", "").split())
    return f"'{text}" if text.startswith(_FORMULA) else text


def _comparison(c: Comparison) -> Iterator[Figure]:
    kind, v = "comparison", c.verdict
    yield Figure(kind, "B/A", "verdict", v.answer, "ratio - 1", v.change_ratio, v.low, v.high, v.sentence)
    yield from _side("A", c.a)
    yield from _side("B", c.b)
    for m in c.metrics:
        yield from _metric(m)
    for floor in c.noise_floor:
        yield Figure(kind, floor.side, "noise_floor", "cost", "ratio", floor.ratio, text=floor.reason or floor.method)
    if c.itemised:
        for line in [*c.itemised.lines, c.itemised.total]:
            yield from _line(line, f"{c.itemised.currency or 's'}/Mtoken")
    yield from _money(c)
    for curve in c.curves:
        yield from _curve(curve)
    for section, found in (("spec", c.spec_differences), ("environment", c.environment_differences)):
        for d in found:
            yield Figure(kind, "A", f"{section}_difference", d.field, text=", ".join(d.a))
            yield Figure(kind, "B", f"{section}_difference", d.field, text=", ".join(d.b))
    for section, texts in (("missing", c.missing), ("note", c.notes), ("reproduce", c.reproduce)):
        for number, text in enumerate(texts, 1):
            yield Figure(kind, "", section, str(number), text=text)


def _side(name: str, side: Side) -> Iterator[Figure]:
    kind = "comparison"
    yield Figure(kind, name, "side", "title", text=side.title)
    yield Figure(kind, name, "side", "source", text=side.published.source if side.published else side.source)
    yield Figure(kind, name, "side", "price", f"{side.currency}/device-hour", side.usd_per_device_hour)
    for run in side.runs:
        for metric, value in run.figures.items():
            yield Figure(kind, run.run_id, f"run of {name}", metric, METRICS[metric].unit, value, text=run.spec_id)
    for out in side.left_out:
        yield Figure(kind, out.run_id, f"run of {name}", "left_out", text=out.reason)


def _metric(m: MetricRatio) -> Iterator[Figure]:
    kind, r = "comparison", m.ratio
    yield Figure(kind, "A", "metric", m.metric, m.unit, m.mean_a)
    yield Figure(kind, "B", "metric", m.metric, m.unit, m.mean_b)
    if r is None:
        yield Figure(kind, "B/A", "metric", m.metric, "ratio", text=m.reason)
    else:
        yield Figure(kind, "B/A", "metric", m.metric, "ratio", r.ratio, r.low, r.high, m.reason)
        yield Figure(kind, "B/A", "p_value", m.metric, "probability", r.p_value)
        yield Figure(kind, "B/A", "adjusted_p_value", m.metric, "probability", m.adjusted_p_value)


def _money(c: Comparison) -> Iterator[Figure]:
    kind, unit = "comparison", "USD/device-hour"
    if b := c.break_even:
        yield Figure(kind, "B", "break_even", "price", unit, b.usd_per_device_hour, b.low, b.high)
    else:
        yield Figure(kind, "B", "break_even", "price", unit, text=c.break_even_reason)
    for name, value in c.tokens_per_dollar.items():
        yield Figure(kind, name.upper(), "tokens_per_dollar", "tokens", "1/USD", value)


def _line(line: ItemisedLine, unit: str) -> Iterator[Figure]:
    kind = "comparison"
    yield Figure(kind, "A", "itemised", line.category, unit, line.a)
    yield Figure(kind, "B", "itemised", line.category, unit, line.b)
    yield Figure(kind, "B-A", "itemised", line.category, unit, line.difference)
    if line.time_effect is not None:
        yield Figure(kind, "B-A", "itemised_time_effect", line.category, unit, line.time_effect)
        yield Figure(kind, "B-A", "itemised_price_effect", line.category, unit, line.price_effect)


def _curve(curve: ObjectiveCurve) -> Iterator[Figure]:
    kind = "comparison"
    for p in curve.points:
        at = f"{curve.quantity}<={p.limit_seconds:g}s"
        yield Figure(kind, curve.side, "curve_usd", at, "USD/Mtoken", p.usd_per_million_tokens)
        yield Figure(kind, curve.side, "curve_device_seconds", at, "s/Mtoken", p.device_seconds_per_million_tokens)
        yield Figure(kind, curve.side, "curve_within", at, "ratio", p.within_ratio)


def _report(report: Report) -> Iterator[Figure]:
    kind = "report"
    yield Figure(kind, "", "verdict", "answer", text=report.answer)
    yield Figure(kind, "", "score", "score", "of 100", report.score)
    yield Figure(kind, "", "ledger", "allocated", "s", report.allocated_seconds)
    for name, seconds in report.ledger_seconds.items():
        yield Figure(kind, "", "ledger", name, "s", seconds)
    for bill in report.bills:
        for line in bill.lines:
            yield Figure(kind, bill.token_kind, "bill", line.category, "USD/Mtoken", line.usd_per_million_tokens)
            seconds = line.device_seconds_per_million_tokens
            yield Figure(kind, bill.token_kind, "bill_device_seconds", line.category, "s/Mtoken", seconds)
        yield Figure(kind, bill.token_kind, "bill", "total", "USD/Mtoken", bill.usd_per_million_tokens)
    for section in report.sections:
        yield from _section(section)
    for code, note in zip(report.validity, report.validity_notes, strict=True):
        yield Figure(kind, "", "validity", code, text=note)


def _section(section: Section) -> Iterator[Figure]:
    kind, run, e = "report", section.run.run_id, section.evaluation
    yield Figure(kind, run, "run", "spec_id", text=section.run.spec_id)
    yield Figure(kind, run, "run", "tokens_per_second", "1/s", e.tokens_per_second)
    yield Figure(kind, run, "run", "mfu", "ratio", e.mfu_ratio)
    yield Figure(kind, run, "run", "joules_per_token", "J", e.joules_per_token, text=e.joules_reason)
    for row in e.panel:
        text = row.capacity if row.mean_ratio is not None else row.absent_reason
        yield Figure(kind, run, "panel", row.resource, "ratio", row.mean_ratio, text=text)
        if row.p95_ratio is not None:
            yield Figure(kind, run, "panel_p95", row.resource, "ratio", row.p95_ratio)
    if e.latencies is not None:
        for name in ("ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds"):
            found = getattr(e.latencies, name)
            for part, value in (found.model_dump() if found else {}).items():
                yield Figure(kind, run, "latency", f"{name.removesuffix('_seconds')}_{part}", "s", value)
    for name, text in section.environment.items():
        yield Figure(kind, run, "environment", name, text=text)
    yield Figure(kind, run, "reproduce", "command", text=section.reproduce.command or section.reproduce.note)


def _cluster(report: ClusterReport) -> Iterator[Figure]:
    kind = "cluster"
    yield Figure(kind, "", "verdict", "answer", text=report.answer)
    for row in report.workloads:
        spec = row.spec_id
        yield Figure(kind, spec, "workload", "preset", text=row.preset)
        yield Figure(kind, spec, "workload", "runs", "1", float(len(row.runs)))
        yield Figure(kind, spec, "workload", "score", "of 100", row.score)
        yield Figure(kind, spec, "workload", "tokens_per_second", "1/s", row.tokens_per_second)
        yield Figure(kind, spec, "workload", "cost", "USD/Mtoken", row.usd_per_million_tokens)
        seconds = row.device_seconds_per_million_tokens
        yield Figure(kind, spec, "workload", "device_seconds", "s/Mtoken", seconds)
        floor = row.noise_floor
        yield Figure(kind, spec, "noise_floor", "cost", "ratio", floor.ratio, text=floor.reason or floor.method)
        for run in row.runs:
            for metric, value in run.figures.items():
                yield Figure(kind, run.run_id, "run", metric, METRICS[metric].unit, value, text=spec)
        yield Figure(kind, spec, "reproduce", "command", text=row.reproduce.command or row.reproduce.note)
    for out in report.left_out:
        yield Figure(kind, out.run_id, "run", "left_out", text=out.reason)
