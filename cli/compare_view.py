"""How a comparison looks in a terminal: the verdict, and the difference as bars that lean to the dearer side."""

from __future__ import annotations

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.terminal import COLOURS
from tokenstone.cluster_report import ClusterReport
from tokenstone.compare import Comparison, MetricRatio
from tokenstone.compare.itemise import Itemised, ItemisedLine
from tokenstone.score.bottleneck import money, seconds

WIDEST_HALF, NARROWEST_HALF = 24, 6
"""Cells of a bar to either side; narrow terminals get short bars rather than no figures."""
_FIGURES_WIDTH = 68
_VERDICTS = {"b_cheaper": "bold green", "b_dearer": "bold red", "no_difference": "bold yellow"}
_MOST_LIMITS = 8


def print_comparison(c: Comparison, console: Console) -> None:
    """Print the verdict, the itemised difference, the figures, the curves, and what cannot be said."""
    console.print()
    console.print(_verdict(c))
    console.print()
    console.print(
        _bars(c.itemised, console.width) if c.itemised else Text(f"Not itemised: {c.itemised_reason}.", style="dim")
    )
    if c.itemised and c.itemised_reason:
        console.print(Text(f"{c.itemised_reason[:1].upper()}{c.itemised_reason[1:]}.", style="dim"))
    console.print()
    console.print(_figures(c))
    for quantity in dict.fromkeys(curve.quantity for curve in c.curves):
        console.print()
        console.print(_curve(c, quantity))
    for title, found in (("work", c.spec_differences), ("surroundings", c.environment_differences)):
        if found:
            console.print()
            table = _table(f"What differs in the {title}", "A", "B", justify="left")
            for d in found:
                table.add_row(escape(d.field), escape(", ".join(d.a)), escape(", ".join(d.b)))
            console.print(table)
    console.print()
    for text in c.missing:
        console.print(Text(f"Missing: {text}.", style="yellow"))
    for text in [*_floors(c), *c.notes]:
        console.print(Text(f"{text[:1].upper()}{text[1:]}.", style="dim"))


def print_cluster(report: ClusterReport, console: Console) -> None:
    """Print a cluster's workloads."""
    console.print()
    console.print(Panel(Text(report.answer), title=f"Tokenstone · {escape(report.cluster)}", title_align="left"))
    table = _table("Workloads", "runs", "cost per M tokens", "score", "tokens/s", "A/A floor")
    for row in report.workloads:
        usd, spent, floor = row.usd_per_million_tokens, row.device_seconds_per_million_tokens, row.noise_floor.ratio
        cost = money(usd) if usd is not None else "absent" if spent is None else f"{seconds(spent)} s"
        table.add_row(
            escape(f"{row.preset} ({row.kind})"), str(len(row.runs)), cost,
            "absent" if row.score is None else f"{row.score:.1f}",
            "absent" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            "absent" if floor is None else f"{floor - 1:.1%}",
        )  # fmt: skip
    console.print(table)
    for row in report.workloads:
        for text in row.missing:
            console.print(Text(f"{row.preset}: {text}.", style="yellow"))
    for out in report.left_out:
        console.print(Text(f"Left out: {out.run_id}: {out.reason}.", style="dim"))


def _verdict(c: Comparison) -> Panel:
    lines = [Text(c.verdict.sentence, style=_VERDICTS.get(c.verdict.answer, "bold"))]
    if c.break_even is not None:
        e = c.break_even
        span = "" if e.low is None or e.high is None else f" ({money(e.low)} to {money(e.high)})"
        lines.append(Text(f"Break-even: a device-hour of B at {money(e.usd_per_device_hour)}{span}."))
    a, b = c.tokens_per_dollar["a"], c.tokens_per_dollar["b"]
    if a is not None and b is not None:
        lines.append(Text(f"Tokens per dollar: A {a:,.0f}, B {b:,.0f}."))
    title = f"B {escape(c.b.title)} against A {escape(c.a.title)}"
    return Panel(Group(*lines), title=title, title_align="left", padding=(0, 2))


def _bars(found: Itemised, width: int) -> Table:
    half = max(NARROWEST_HALF, min(WIDEST_HALF, (width - _FIGURES_WIDTH) // 2))
    unit = f"{found.currency} per million tokens" if found.unit == "money" else "device-seconds per million tokens"
    table = _table(f"The difference, B - A, {unit}", "A", "B", "B - A")
    table.add_column(f"{'less':>{half}}│more", justify="left", no_wrap=True)
    largest = max((abs(line.difference) for line in found.lines), default=0.0)
    for line in found.lines:
        if line.a or line.b:
            bar = _bar(line.difference, largest, COLOURS.get(line.category, "white"), half)
            table.add_row(line.title, *_amounts(line, found), bar)
    table.add_row("total", *_amounts(found.total, found), Text(), style="bold")
    total = found.total
    if total.time_effect is not None and total.price_effect is not None:
        table.add_row("  of it by time", "", "", _signed(total.time_effect, found), Text(), style="dim")
        table.add_row("  of it by price", "", "", _signed(total.price_effect, found), Text(), style="dim")
    return table


def _bar(difference: float, largest: float, colour: str, half: int) -> Text:
    cells = round(abs(difference) / largest * half) if largest else 0
    if difference < 0:
        return Text.assemble(" " * (half - cells), ("█" * cells, colour), "│")
    return Text.assemble(" " * half, "│", ("█" * cells, colour))


def _amounts(line: ItemisedLine, found: Itemised) -> tuple[str, str, str]:
    return _amount(line.a, found), _amount(line.b, found), _signed(line.difference, found)


def _amount(value: float, found: Itemised) -> str:
    """All of a column with the decimals of its total, so that a reader can add them up."""
    if found.unit == "money" and found.currency == "USD":
        return f"${value:,.{_decimals(found)}f}"
    return f"{value:,.{_decimals(found)}f}"


def _signed(value: float, found: Itemised) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{_amount(abs(value), found)}"


def _decimals(found: Itemised) -> int:
    largest = max(abs(found.total.a), abs(found.total.b))
    places = 2
    while largest and largest * 10 ** (places - 3) < 1 and places < 12:
        places += 1
    return places


def _figures(c: Comparison) -> Table:
    table = _table("Figures", "A", "B", "B / A", "95 % interval", "")
    for m in c.metrics:
        r = m.ratio
        interval = "" if r is None or r.low is None or r.high is None else f"{r.low:.3f} to {r.high:.3f}"
        means = (_mean(m.mean_a, m), _mean(m.mean_b, m))
        ratio = "" if r is None else f"{r.ratio:.3f}"
        table.add_row(m.title.replace("million", "M"), *means, ratio, interval, _judged(m))
    return table


def _judged(m: MetricRatio) -> str:
    if m.significant is None:
        return m.reason
    return "differs" if m.significant else "could be chance"


def _mean(value: float | None, m: MetricRatio) -> str:
    if value is None:
        return "absent"
    return money(value) if m.unit == "$" else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _curve(c: Comparison, quantity: str) -> Table:
    """A few limits, evenly picked."""
    curves = [curve for curve in c.curves if curve.quantity == quantity]
    table = _table(f"Output tokens within a {quantity.upper()} limit, per million", *(curve.side for curve in curves))
    rows = list(zip(*(curve.points for curve in curves), strict=True))
    for points in rows[:: max(1, -(-len(rows) // _MOST_LIMITS))]:
        cells = []
        for p in points:
            usd, spent = p.usd_per_million_tokens, p.device_seconds_per_million_tokens
            cells.append("none" if spent is None else f"{seconds(spent)} s" if usd is None else money(usd))
        table.add_row(f"≤ {points[0].limit_seconds:g} s", *cells)
    return table


def _floors(c: Comparison) -> list[str]:
    return [
        f"noise floor of {floor.side} against itself: {floor.reason}"
        if floor.ratio is None
        else f"noise floor of {floor.side} against itself: {floor.ratio - 1:.1%}, from {floor.runs} runs"
        for floor in c.noise_floor
    ]


def _table(title: str, *heads: str, justify: str = "right") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in heads:
        plain = justify == "left" or not head
        table.add_column(head, justify="left" if plain else "right", overflow="fold", no_wrap=not plain)
    return table
