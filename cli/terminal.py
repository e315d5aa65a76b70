"""How a report looks in a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tokenstone.advice import Advice
from tokenstone.cost import Bill
from tokenstone.report import Report
from tokenstone.score.bottleneck import TITLES, money
from tokenstone.score.panel import PanelRow

COLOURS: dict[str, str] = {
    "ideal": "green", "compute": "blue", "recompute": "dark_orange", "kernel_inefficiency": "yellow",
    "exposed_communication": "magenta", "pipeline_bubble": "purple", "load_imbalance": "deep_pink3",
    "input_stall": "cyan", "checkpoint": "dark_cyan", "host_overhead": "red", "startup": "bright_black",
    "recovery": "red3", "idle": "white", "queue_idle": "white", "preemption": "orange3", "slo_miss": "red1",
}  # fmt: skip
BAR_CELLS = 60
LEAST_SHARE = 0.0005
"""Smaller shares would read 0.0 %; the bill lists them all the same."""


def print_report(report: Report, console: Console) -> None:
    """Print the report: score, bill, ledger, panel, bottleneck, validity."""
    console.print()
    console.print(_headline(report))
    console.print(ledger_bar(report.ledger_seconds))
    console.print()
    console.print(_bill_table(report))
    console.print()
    for section in report.sections:
        figures = "  ·  ".join(f"{h.title} [bold]{h.value}[/] {h.unit}".rstrip() for h in section.headlines)
        console.print(f"[bold]{section.kind.capitalize()}[/]  {figures}")
    console.print()
    console.print(_panel(report))
    console.print()
    for advice in report.advice:
        console.print(advice_line(advice))
    for line in _provenance(report):
        console.print(line, style="dim")


def _headline(report: Report) -> Panel:
    score = "no score" if report.score is None else f"{report.score:.1f}"
    lines = [Text.assemble(("SCORE ", "bold"), (score, "bold green"), (" of 100", "dim"))]
    if report.score is not None:
        lines.append(Text(f"Of every dollar, {report.score:.3g} cents bought work at the hardware's limit."))
    if report.bill is not None:
        lines.append(Text.assemble((_amount(report.bill), "bold"), " per million tokens, trained, read and written"))
    lines.append(Text(report.bottleneck_sentence, style="yellow"))
    return Panel(Group(*lines), title=f"Tokenstone · {report.cluster}", title_align="left", padding=(0, 2))


def advice_line(advice: Advice) -> Text:
    """What to change, what that saves at most, and what it rests on."""
    worth = f"{advice.saving_ratio:.1%} of the bill"
    if advice.saving_usd_per_million_tokens is not None:
        worth = f"{money(advice.saving_usd_per_million_tokens)} per million tokens, {worth}"
    title = TITLES[advice.category]
    parts = (f"Against {title}", "bold"), f": {advice.hint}. Saves at most {worth}. ", (f"{advice.rests_on}.", "dim")
    return Text.assemble(*parts)


def _amount(bill: Bill) -> str:
    if bill.usd_per_million_tokens is not None:
        return money(bill.usd_per_million_tokens)
    return f"{bill.device_seconds_per_million_tokens:,.4g} device-seconds"


def ledger_bar(seconds: dict[str, float]) -> Group:
    """The ledger as one stacked bar, and its legend."""
    total = sum(seconds.values())
    shown = {name: value for name, value in seconds.items() if value > 0}
    bar, legend, filled, reached = Text(" "), [], 0, 0.0
    for name, value in shown.items():
        reached += value
        cells = round(reached / total * BAR_CELLS) - filled
        filled += cells
        bar.append("█" * cells, style=COLOURS[name])
        if value / total >= LEAST_SHARE:
            legend.append(Text.assemble(("■ ", COLOURS[name]), f"{TITLES[name]} {value / total:.1%}"))
    return Group(bar, Text(" ") + Text("   ").join(legend))


def _bill_table(report: Report) -> Table:
    priced = report.price is not None
    unit = "$ per million tokens" if priced else "device-seconds per million tokens"
    table = Table(title=f"Bill, {unit}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for bill in report.bills:
        table.add_column(bill.token_kind, justify="right")
    names = dict.fromkeys(line.category for bill in report.bills for line in bill.lines if line.device_seconds > 0)
    for name in names:
        cells = []
        for bill in report.bills:
            line = next((line for line in bill.lines if line.category == name), None)
            value = (
                None
                if line is None
                else line.usd_per_million_tokens
                if priced
                else line.device_seconds_per_million_tokens
            )
            cells.append("" if value is None else money(value) if priced else f"{value:,.2f}")
        table.add_row(TITLES[name], *cells, style="green" if name == "ideal" else "")
    totals = [_amount(bill).removesuffix(" device-seconds") for bill in report.bills]
    table.add_row("total", *totals, style="bold")
    return table


def _panel(report: Report) -> Group:
    """Measured resources as a table; the absent ones with their reasons below it."""
    table = Table(title="Resources: mean / p95", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for section in report.sections:
        table.add_column(section.kind, justify="right", no_wrap=True)
    table.add_column("of")
    absent: list[str] = []
    for rows in zip(*(section.evaluation.panel for section in report.sections), strict=True):
        measured = [row for row in rows if row.mean_ratio is not None]
        if measured:
            table.add_row(rows[0].resource, *(_mean_and_p95(row) for row in rows), measured[0].capacity)
        else:
            absent.append(f"{rows[0].resource} ({rows[0].absent_reason})")
    return Group(table, Text(f"Absent: {'; '.join(absent)}.", style="dim") if absent else Text())


def _mean_and_p95(row: PanelRow) -> str:
    if row.mean_ratio is None:
        return "absent"
    return f"{row.mean_ratio:.1%}" + ("" if row.p95_ratio is None else f" / {row.p95_ratio:.1%}")


def _provenance(report: Report) -> list[str]:
    roofline = report.sections[0].evaluation.roofline
    lines = [report.price_note]
    if roofline:
        bandwidth = roofline["memory_bytes_per_second"]
        memory = f", {float(bandwidth) / 1e9:,.1f} GB/s" if bandwidth else ""
        lines.append(
            f"Limit: {roofline['hardware']}, {float(roofline['peak_flops_per_second'] or 0) / 1e12:,.3f} TFLOP/s "
            f"{roofline['dtype']}{memory} ({roofline['provenance']}: {roofline['source']})"
        )
    lines += [f"Validity: {code}: {note}" for code, note in zip(report.validity, report.validity_notes, strict=True)]
    return lines
