"""How a frontier looks: a table and a chart of characters in a terminal, and an SVG picture that needs nothing else."""

from __future__ import annotations

from html import escape
from math import floor, log10

from rich.console import Console
from rich.table import Table

from cli.frontier import Frontier, Point
from tokenstone.objectives import describe

_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 860, 440, 70, 60, 480, 320
_CELLS, _ROWS = 60, 16
_INK, _FAINT, _LINE, _OPEN = "#1d2433", "#d6dae3", "#1b6ca8", "#c8553d"


def print_frontier(frontier: Frontier, console: Console) -> None:
    """Print the loads as a table, the chart, and the highest rate."""
    title, unit = f"Frontier of {frontier.model}; tok/s are output tokens", _unit(frontier)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    names = ("load", "req/s", "tok/s/device", "tok/s/user", "TTFT p99", "TPOT p99 ms", "good", "failed")
    for name in (*names, f"{unit}/M in", f"{unit}/M out"):
        table.add_column(name, justify="left" if name == "load" else "right", no_wrap=name == "load")
    for p in frontier.points:
        table.add_row(
            _name(p), _number(p.requests_per_second), _number(p.output_tokens_per_second_per_device),
            _number(p.interactivity), _number(p.ttft_p99_seconds, 1e3), _number(p.tpot_p99_seconds, 1e3),
            "absent" if p.goodput_ratio is None else f"{p.goodput_ratio:.1%}", f"{p.errors:,}",
            _number(p.per_million_input_tokens), _number(p.per_million_output_tokens),
        )  # fmt: skip
    console.print()
    console.print(table)
    console.print()
    console.print("Output tokens/s/device over tokens/s/user (o closed loop, x open loop)", style="bold")
    for line in _characters(frontier):
        console.print(line, markup=False)
    console.print()
    console.print(_sentence(frontier))


def _sentence(frontier: Frontier) -> str:
    if frontier.objective is None:
        return "Highest rate: absent, no objective was given (--slo)"
    if frontier.highest_rate is None:
        return f"No tried rate meets {describe(frontier.objective)}"
    return f"Highest rate that meets {describe(frontier.objective)}: {frontier.highest_rate:,.3g} requests/s"


def _unit(frontier: Frontier) -> str:
    return "$" if frontier.cost_unit == "usd" else "device-s"


def _name(point: Point) -> str:
    return f"{point.concurrency} at once" if point.concurrency is not None else f"{point.rate:.3g} /s"


def _number(value: float | None, scale: float = 1.0) -> str:
    return "absent" if value is None else f"{value * scale:,.4g}"


def _placed(frontier: Frontier) -> list[tuple[float, float, Point]]:
    return [
        (p.interactivity, p.output_tokens_per_second_per_device, p)
        for p in frontier.points
        if p.interactivity is not None and p.output_tokens_per_second_per_device is not None
    ]


def _characters(frontier: Frontier) -> list[str]:
    placed = _placed(frontier)
    if not placed:
        return ["  nothing to draw: no load has both figures"]
    right, top = _nice(max(x for x, _, _ in placed)), _nice(max(y for _, y, _ in placed))
    grid = [[" "] * (_CELLS + 1) for _ in range(_ROWS + 1)]
    for x, y, point in placed:
        mark = "o" if point.concurrency is not None else "x"
        grid[_ROWS - round(y / top * _ROWS)][round(x / right * _CELLS)] = mark
    rows = [f"{top * (_ROWS - i) / _ROWS:>9,.4g} |{''.join(row)}" if i % 4 == 0 else f"{'':>9} |{''.join(row)}"
            for i, row in enumerate(grid)]  # fmt: skip
    return [*rows, f"{'':>9} +{'-' * (_CELLS + 1)}", f"{'0':>11}{f'{right:,.4g} tokens/s/user':>{_CELLS + 1}}"]


def _nice(value: float) -> float:
    """The next round number at or above."""
    step = 10 ** floor(log10(value)) if value > 0 else 1.0
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= value * 0.999999)


def svg(frontier: Frontier) -> str:
    """The picture: throughput over interactivity, and the cost of output tokens beside each load."""
    placed = _placed(frontier)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}" role="img">',
        f"<title>Frontier of {escape(frontier.model)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(_LEFT, 24, f"Frontier of {frontier.model}", size=16, weight="bold"),
        _text(_LEFT, 44, _sentence(frontier), size=12),
    ]
    if not placed:
        return "".join([*parts, _text(_LEFT, 120, "Nothing to draw: no load has both figures."), "</svg>"])
    right, top = _nice(max(x for x, _, _ in placed)), _nice(max(y for _, y, _ in placed))

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / right * _PLOT_WIDTH, _TOP + (1 - y / top) * _PLOT_HEIGHT

    for i in range(5):
        (x, bottom), (_, y) = at(right * i / 4, 0), at(0, top * i / 4)
        parts += [
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _PLOT_WIDTH}" y2="{y:.1f}" stroke="{_FAINT}"/>',
            _text(_LEFT - 8, y + 4, f"{top * i / 4:,.4g}", anchor="end"),
            _text(x, bottom + 18, f"{right * i / 4:,.4g}", anchor="middle"),
        ]
    below = "tokens/s that one user sees (1 / median TPOT)"
    parts.append(_text(_LEFT + _PLOT_WIDTH / 2, _TOP + _PLOT_HEIGHT + 40, below, anchor="middle"))
    parts.append(f'<g transform="translate(18 {_TOP + _PLOT_HEIGHT / 2}) rotate(-90)">'
                 + _text(0, 0, "output tokens/s per device", anchor="middle") + "</g>")  # fmt: skip
    closed = [(x, y) for x, y, p in placed if p.concurrency is not None]  # in order of their clients
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in closed))
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for number, (x, y, point) in enumerate(placed, 1):
        px, py = at(x, y)
        colour = _LINE if point.concurrency is not None else _OPEN
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}"/>')
        parts.append(_text(px + 7, py - 6, str(number), size=11))
        parts.append(
            _text(_LEFT + _PLOT_WIDTH + 24, _TOP + 14 + 18 * number, f"{number}  {_line(frontier, point)}", size=11)
        )
    parts.append(
        _text(_LEFT + _PLOT_WIDTH + 24, _TOP + 8, f"load: {_unit(frontier)} per M output, goodput", weight="bold")
    )
    return "".join([*parts, "</svg>"]) + "\n"


def _line(frontier: Frontier, point: Point) -> str:
    cost = point.per_million_output_tokens
    text = "no cost" if cost is None else f"${cost:,.3g}" if _unit(frontier) == "$" else f"{cost:,.3g} device-s"
    return f"{_name(point)}: {text}" + ("" if point.goodput_ratio is None else f", {point.goodput_ratio:.0%}")


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
