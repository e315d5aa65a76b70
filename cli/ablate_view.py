"""How the result of `ablate` looks: a JSON document with stable keys, and a table."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.ablate_result import COSTS, HELPS, Ablation, Result, SideResult
from tokenstone.evaluate import REASONS
from tokenstone.report import HOW_TO_PRICE
from tokenstone.score.bottleneck import money

_COLOURS = {HELPS: "green", COSTS: "red"}
_VERDICT_WIDTH = len("insufficient ")


def document(ablation: Ablation) -> dict[str, Any]:
    """The document of `tokenstone ablate --json`. Scripts rely on its keys."""
    return {
        "preset": ablation.preset,
        "runs": ablation.runs,
        "steps": ablation.steps,
        "price": ablation.price.model_dump(mode="json") if ablation.price else None,
        "techniques": [_row(result) for result in ablation.results],
        "validity": ablation.validity,
    }


def _row(result: Result) -> dict[str, Any]:
    estimate = result.estimate
    return {
        "name": result.technique.name,
        "title": result.technique.title,
        "off": asdict(result.off) | {"spec_id": result.technique.off.spec_id},
        "on": asdict(result.on) | {"spec_id": result.technique.on.spec_id},
        "ratio": estimate.ratio,
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "confidence": estimate.confidence,
        "p_value": estimate.p_value,
        "p_adjusted": result.p_adjusted,
        "verdict": result.verdict,
        "conditions": result.technique.conditions,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def print_table(ablation: Ablation, console: Console) -> None:
    """Print the table, and below it what each technique is and under what it was run."""
    runs = f"{ablation.runs} run{'s' if ablation.runs > 1 else ''} a side"
    title = f"What each technique is worth here: {ablation.preset}, {ablation.steps} steps, {runs}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("")
    cost = "$/M tokens" if ablation.price is not None else "device-s\n/M tokens"
    for column in ("tokens/s", "on / off\n95 % interval", cost, "exposed\ncomm."):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", max_width=_VERDICT_WIDTH)
    for result in ablation.results:
        off, on = result.off, result.on
        table.add_row(
            result.technique.name,
            "off\non",
            f"{off.tokens_per_second:,.0f}\n{on.tokens_per_second:,.0f}",
            _ratio(result),
            f"{_cost(off)}\n{_cost(on)}",
            f"{off.exposed_communication_ratio:.1%}\n{on.exposed_communication_ratio:.1%}",
            Text(result.verdict, style=_COLOURS.get(result.verdict, "")),
        )
    console.print(table)
    console.print()
    for result in ablation.results:
        console.print(Text.assemble((f"{result.technique.name}: ", "bold"), _explained(result)), style="dim")
    console.print()
    for line in _notes(ablation):
        console.print(line, style="dim")


def _ratio(result: Result) -> str:
    estimate = result.estimate
    if estimate.low is None or estimate.high is None:
        return f"{estimate.ratio:.3g}\nabsent"
    return f"{estimate.ratio:.3g}\n{estimate.low:.3g} to {estimate.high:.3g}"


def _cost(side: SideResult) -> str:
    if side.usd_per_million_tokens is None:
        return f"{side.device_seconds_per_million_tokens:,.4g}"
    return money(side.usd_per_million_tokens)


def _explained(result: Result) -> str:
    off, on = result.off, result.on
    parts = [f"{result.technique.title} ({result.technique.conditions})"]
    if "max_violation" in result.technique.beside:
        parts.append(f"MaxVio {_figure(off.max_violation, '.2f')} → {_figure(on.max_violation, '.2f')}")
    if "bubble_ratio" in result.technique.beside:
        parts.append(f"bubble {off.bubble_ratio:.1%} → {on.bubble_ratio:.1%}")
    if "loss_last" in result.technique.beside:
        parts.append(f"last loss {_figure(off.loss_last, '.3f')} → {_figure(on.loss_last, '.3f')}")
    if "peak_memory_bytes" in result.technique.beside:
        memory = (None if b is None else b / 1e6 for b in (off.peak_memory_bytes, on.peak_memory_bytes))
        parts.append("peak memory {} → {} MB".format(*(_figure(megabytes, ",.0f") for megabytes in memory)))
    if on.precision is not None and on.precision != off.precision:
        parts.append(f"with it: {on.precision}")
    return "; ".join(parts) + "."


def _figure(value: float | None, form: str) -> str:
    return "absent" if value is None else format(value, form)


def _notes(ablation: Ablation) -> list[str]:
    price, count = ablation.price, len(ablation.results)
    lines = [
        "Of the counted steps alone: start-up is left out. Intervals by Welch's t on logarithms of the runs; verdicts"
        " at 5 %" + (f" after Holm's adjustment over {count} techniques." if count > 1 else "."),
    ]
    if any(result.p_adjusted is None for result in ablation.results):
        lines.append("Fewer than 4 runs a side cannot show a difference: give --runs 4 or more.")
    if price is None:
        lines.append(f"No price was given: {HOW_TO_PRICE}.")
    else:
        lines.append(f"{money(price.usd_per_device_hour)} per device-hour ({price.basis}; {price.source})")
    lines += [f"Validity: {code}: {REASONS[code]}" for code in ablation.validity]
    return lines
