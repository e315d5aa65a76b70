"""Draw what a board's panels would show, as Grafana lays them out: so that a person can look without a Grafana.

`draw_all` asks a Prometheus every panel's queries and writes a PNG for each board. It knows what these boards use:
the kinds of panel of dashboards/panels.py, their units, thresholds, stacking and transformations. It is not Grafana.
"""

from __future__ import annotations

import math
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards.asking import Asked, Document, Prometheus, load, open_board
from dashboards.boards import BOARDS
from dashboards.units import colored, shown

mpl.use("Agg")
COLUMN_INCHES, ROW_INCHES, DPI = 0.78, 0.36, 80
PALETTE = ["#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#705DA0", "#37872D", "#FADE2A"]
INK, PAPER, CARD, FAINT = "#d8d9da", "#111217", "#181b1f", "#34373d"
Table = tuple[list[str], list[list[str]]]


def draw_all(prometheus: Prometheus, folder: Path, *, start: float, end: float, scrape_seconds: float = 1.0) -> None:
    """Draw every board over that time range into `folder`/NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOARDS:
        board = load(name)
        asked = open_board(board, prometheus, start=start, end=end, step=(end - start) / 240,
                           scrape_seconds=scrape_seconds)  # fmt: skip
        draw(board, asked).savefig(folder / f"{name}.png", dpi=DPI, facecolor=PAPER)
        plt.close("all")


def draw(board: Document, asked: Asked) -> Figure:
    """Draw one board."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    width, height = 24 * COLUMN_INCHES, rows * ROW_INCHES
    figure = plt.figure(figsize=(width, height))
    values = ", ".join(f"{name} = {'All' if value == '.*' else value}" for name, value in asked.values.items())
    start, end = (datetime.fromtimestamp(time, UTC) for time in (asked.start, asked.end))
    when = f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"
    figure.text(0.01, 1 - 0.6 / rows, board["title"], color=INK, size=15, weight="bold", va="center")
    figure.text(0.01, 1 - 1.5 / rows, f"{values}   ·   {when}", color="#9fa7b3", size=9, va="center")
    for panel in board["panels"]:
        grid = panel["gridPos"]
        left, top = grid["x"] / 24, 1 - (grid["y"] + 2) / rows
        if panel["type"] == "row":
            figure.text(left + 0.006, top - 0.5 / rows, f"▾ {panel['title']}", color=INK, size=11, va="center")
            continue
        box = (left + 0.003, top - (grid["h"] - 0.15) / rows, grid["w"] / 24 - 0.006, (grid["h"] - 0.3) / rows)
        axes = figure.add_axes(box)
        axes.set_facecolor(CARD)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(FAINT)
        axes.text(0.012, 1 - 0.42 / grid["h"], panel["title"], color=INK, size=9.5, weight="bold", va="center",
                  transform=axes.transAxes)  # fmt: skip
        _draw_panel(figure, axes, box, panel, asked, grid["h"])
    return figure


def _draw_panel(figure: Figure, card: Axes, box: tuple[float, ...], panel: Document, asked: Asked, rows: int) -> None:
    if panel["type"] == "text":
        words = textwrap.fill(panel["options"]["content"], 190)
        card.text(0.012, 1 - 0.9 / rows, words, color=INK, size=9, va="top", transform=card.transAxes)
        return
    answers = [asked.ask(target) for target in panel["targets"]]
    if not any(answers):
        card.text(0.5, 0.45, "no data", color="#9fa7b3", size=11, ha="center", transform=card.transAxes)
        return
    head = 0.8 / rows
    inner = (box[0] + 0.004, box[1] + box[3] * 0.03, box[2] - 0.008, box[3] * (0.95 - head))
    kind = panel["type"]
    if kind in {"timeseries", "barchart", "state-timeline"}:
        left = 0.045 if kind != "state-timeline" else min(0.2, box[2] * 0.45)
        inner = (box[0] + left, box[1] + box[3] * 0.26, box[2] - left - 0.006, box[3] * (0.7 - head))
    axes = figure.add_axes(inner)
    axes.set_facecolor(CARD)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _KINDS[kind](axes, panel, answers, asked)


def _legend_of(target: Document, series: Document) -> str:
    text = str(target.get("legendFormat", "__auto"))
    labels = {name: value for name, value in series["metric"].items() if name != "__name__"}
    if text == "__auto":
        return (
            next(iter(labels.values()))
            if len(labels) == 1
            else ", ".join(f"{k}={v}" for k, v in labels.items()) or "Value"
        )
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _named(panel: Document, answers: list[list[Document]]) -> list[tuple[str, Document]]:
    return [
        (_legend_of(target, series), series)
        for target, answer in zip(panel["targets"], answers, strict=True)
        for series in answer
    ]


def _fixed(panel: Document) -> dict[str, str]:
    return {
        override["matcher"]["options"]: colored(prop["value"]["fixedColor"])
        for override in panel["fieldConfig"].get("overrides", [])
        for prop in override["properties"]
        if prop["id"] == "color"
    }


def _axis(axes: Axes, panel: Document) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes.tick_params(colors="#9fa7b3", labelsize=7.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)


def _legend(axes: Axes, names: list[str]) -> None:
    if names:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(-0.06, -0.12), ncols=4, fontsize=7, frameon=False,
                             labelcolor=INK, handlelength=1.2, columnspacing=1.2)  # fmt: skip
        for text in legend.get_texts():
            text.set_text(text.get_text()[:36])


def _clock(axes: Axes, asked: Asked) -> None:
    axes.set_xlim(asked.start, asked.end)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{datetime.fromtimestamp(value, UTC):%H:%M:%S}")


def _timeseries(axes: Axes, panel: Document, answers: list[list[Document]], asked: Asked) -> None:
    named, fixed = _named(panel, answers), _fixed(panel)
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode", "none") not in {"none", ""}
    grid = [asked.start + i * asked.step for i in range(int((asked.end - asked.start) / asked.step) + 1)]
    below = [0.0] * len(grid)
    for number, (name, series) in enumerate(named):
        color, label = fixed.get(name, PALETTE[number % len(PALETTE)]), name if number < 8 else None
        points = {round(float(t), 1): float(v) for t, v in series["values"]}
        values = [points.get(round(t, 1), math.nan) for t in grid]  # a gap stays a gap
        if stacked:
            there = [not math.isnan(value) for value in values]
            above = [
                floor + (value if known else 0.0) for floor, value, known in zip(below, values, there, strict=True)
            ]
            axes.fill_between(grid, below, above, where=there, color=color, alpha=0.8, linewidth=0, label=label)
            below = above
        else:
            axes.plot(grid, values, color=color, linewidth=1.1, label=label)
    _clock(axes, asked)
    most = panel["fieldConfig"]["defaults"].get("max")
    largest = max((float(v) for _, series in named for _, v in series["values"]), default=0.0)
    axes.set_ylim(bottom=0, top=most or (None if largest else 1.0))
    _axis(axes, panel)
    _legend(axes, [name for name, _ in named])


def _states(axes: Axes, panel: Document, answers: list[list[Document]], asked: Asked) -> None:
    named = _named(panel, answers)
    mapped = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    for row, (_, series) in enumerate(named):
        for time, value in series["values"]:
            color = colored(mapped.get(f"{float(value):g}", {"color": "text"})["color"])
            axes.barh(row, asked.step, left=float(time), height=0.8, color=color, linewidth=0)
    axes.set_yticks(range(len(named)), [name[-44:] for name, _ in named])
    axes.tick_params(colors="#9fa7b3", labelsize=min(7.5, 150 / max(1, len(named))), length=0)
    axes.set_ylim(len(named) - 0.5, -0.5)
    _clock(axes, asked)
    axes.tick_params(axis="x", labelsize=7.5)
    for number, option in enumerate(mapped.values()):
        axes.text(0.2 * number, -0.3, f"■ {option['text']}", color=colored(option["color"]), size=8,
                  transform=axes.transAxes)  # fmt: skip


def _stat(axes: Axes, panel: Document, answers: list[list[Document]], _asked: Asked) -> None:
    axes.axis("off")
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    named = _named(panel, answers)
    for number, (name, series) in enumerate(named):
        value = float(series["value"][1])
        text = shown(value, defaults.get("unit", "none"), defaults.get("decimals"))
        color = _threshold(defaults, value)
        middle = 1 - (number + 0.5) / len(named)
        if options["textMode"] == "name":
            axes.text(0.5, middle, name, color=color, size=13, ha="center", va="center")
        elif options["textMode"] == "value_and_name":
            axes.text(0.04, middle, name, color=INK, size=9, va="center")
            axes.text(0.96, middle, text, color=color, size=13, ha="right", va="center", weight="bold")
        else:
            axes.text(0.5, middle, text, color=color, size=19, ha="center", va="center", weight="bold")


def _bargauge(axes: Axes, panel: Document, answers: list[list[Document]], _asked: Asked) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    named = [(name, float(series["value"][1])) for name, series in _named(panel, answers)]
    most = defaults.get("max") or max((value for _, value in named), default=1.0) or 1.0
    for row, (name, value) in enumerate(named):
        axes.barh(row, 1, height=0.6, color="#22252b")
        axes.barh(row, min(1.0, value / most), height=0.6, color=_threshold(defaults, value))
        axes.text(-0.02, row, name, color=INK, size=8.5, ha="right", va="center")
        axes.text(1.02, row, shown(value, defaults.get("unit", "none")), color=INK, size=8.5, va="center")
    axes.set_xlim(-0.6, 1.35)
    axes.set_ylim(max(len(named), 4) - 0.5, -0.5)
    axes.axis("off")


def _threshold(defaults: Document, value: float) -> str:
    color = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return colored(color)


def _matrix(axes: Axes, panel: Document, answers: list[list[Document]], _asked: Asked) -> None:
    rule = next(t["options"] for t in panel["transformations"] if t["id"] == "groupingToMatrix")
    across, within, fixed = rule["rowField"], rule["columnField"], _fixed(panel)
    rows = sorted({series["metric"][across] for series in answers[0]})
    columns = list(dict.fromkeys(series["metric"][within] for series in answers[0]))
    values = {(s["metric"][across], s["metric"][within]): float(s["value"][1]) for s in answers[0]}
    floor = [0.0] * len(rows)
    for number, column in enumerate(columns):
        heights = [values.get((row, column), 0.0) for row in rows]
        axes.bar(rows, heights, bottom=floor, width=0.85, label=column,
                 color=fixed.get(column, PALETTE[number % len(PALETTE)]))  # fmt: skip
        floor = [a + b for a, b in zip(floor, heights, strict=True)]
    _axis(axes, panel)
    _legend(axes, columns)


def _table(axes: Axes, panel: Document, answers: list[list[Document]], _asked: Asked) -> None:
    axes.axis("off")
    headings, cells = rows_of(panel, answers)
    most = max(1, int(panel["gridPos"]["h"] * 1.15) - 2)
    lengths = [max([len(head), *(len(row[i]) for row in cells[:most])]) for i, head in enumerate(headings)]
    room = panel["gridPos"]["w"] * 6.6
    kept = [min(length, max(8, int(room * 0.55))) for length in lengths]
    total = sum(kept) + 2 * len(kept)
    left = 0.005
    for i, heading in enumerate(headings):
        for number, text in enumerate([heading, *(row[i] for row in cells[:most])]):
            cut = text if len(text) <= kept[i] else text[: kept[i] - 1] + "…"
            axes.text(left, 1 - (number + 0.5) / (most + 1), cut, color="#6e9fff" if number == 0 else INK, va="center",
                      size=min(8.0, 8.0 * room / total), family="monospace")  # fmt: skip
        left += (kept[i] + 2) / max(total, room * 0.98)
    if len(cells) > most:
        axes.text(0.99, 0.0, f"and {len(cells) - most} more rows", color="#9fa7b3", size=7.5, ha="right")


def rows_of(panel: Document, answers: list[list[Document]]) -> Table:
    """Headings and cells of a table panel after its transformations (merge, organize) and its sorting."""
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    names = sorted(organize["indexByName"], key=organize["indexByName"].__getitem__)
    labels = [name for name in names if not name.startswith("Value")]
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, answer in enumerate(answers):
        field = f"Value #{chr(ord('A') + number)}" if len(answers) > 1 else "Value"
        for series in answer:
            # Grafana's merge joins rows that agree in every label that both have.
            key = tuple(f"{k}={v}" for k, v in sorted(series["metric"].items()) if k != "__name__")
            row = merged.setdefault(key, {label: series["metric"].get(label, "") for label in labels})
            row[field] = float(series["value"][1])
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    rows = list(merged.values())
    for sort in reversed(panel["options"].get("sortBy", [])):
        by = next(name for name, heading in organize["renameByName"].items() if heading == sort["displayName"])
        rows.sort(key=lambda row: row.get(by, float("-inf")), reverse=sort.get("desc", False))
    headings = [organize["renameByName"][name] for name in names]
    cells = [
        [shown(row[name], units[heading]) if isinstance(row.get(name), float) else str(row.get(name, ""))
         for name, heading in zip(names, headings, strict=True)]
        for row in rows
    ]  # fmt: skip
    return headings, cells


_KINDS = {
    "timeseries": _timeseries,
    "state-timeline": _states,
    "stat": _stat,
    "bargauge": _bargauge,
    "barchart": _matrix,
    "table": _table,
}
