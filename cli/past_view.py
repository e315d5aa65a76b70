"""How a past job looks in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cli.terminal import advice_line, ledger_bar
from tokenstone.advice import Advice
from tokenstone.score.bottleneck import money


def print_past(document: dict[str, Any], console: Console) -> None:
    """Print cost, ledger, panel, and what cannot be known."""
    hours, chosen = document["device_hours"], document["selected_by"] or "nothing: every device"
    hardware = ", ".join(document["hardware"])
    console.print(
        f"{document['job']}: {document['devices']:,} devices ({hardware}) on {len(document['nodes']):,} nodes, "
        f"{hours:,.4g} device-hours, selected by {chosen}",
        style="bold",
        markup=False,
    )
    for name, value in _figures(document).items():
        console.print(f"  {name:<24} {value}", markup=False)
    console.print(ledger_bar(document["ledger_seconds"]))
    table = Table(title="Resources", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading, justify in (("", "left"), ("mean", "right"), ("p95", "right"), ("of", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in document["panel"]:
        if row["mean_ratio"] is not None:
            p95 = "" if row["p95_ratio"] is None else f"{row['p95_ratio']:.1%}"
            table.add_row(row["resource"], f"{row['mean_ratio']:.1%}", p95, row["capacity"])
    console.print(table)
    console.print(f"p95 is of windows of {document['window_seconds']:,.0f} s.", style="dim")
    for found in document["advice"]:
        console.print(advice_line(Advice.model_validate(found)))
    absent = [f"{row['resource']} ({row['absent_reason']})" for row in document["panel"] if row["mean_ratio"] is None]
    if absent:
        console.print(f"Absent: {'; '.join(absent)}.", style="dim", markup=False)
    for what in document["cannot_be_known"]:
        console.print(f"Cannot be known from this history: {what}.", style="dim")
    for note in document["notes"]:
        console.print(f"Note: {note}.", style="dim", markup=False)


def _figures(document: dict[str, Any]) -> dict[str, str]:
    score = document["score"]
    reasons = "; ".join(document["validity_notes"])
    figures = {"score": f"{score:.1f} of 100" if score is not None else f"none: {reasons}"}
    if document["usd"] is not None:
        figures["cost"] = money(document["usd"])
    if document["usd_per_million_tokens"] is not None:
        figures["per million tokens"] = money(document["usd_per_million_tokens"])
    if document["joules"] is not None:
        figures["energy"] = f"{document['joules'] / 3.6e6:,.4g} kWh ({document['joules_provenance']})"
    else:
        figures["energy"] = document["joules_provenance"]
    if document["joules_per_token"] is not None:
        figures["energy per token"] = f"{document['joules_per_token']:,.3g} J"
    figures["coverage"] = f"{document['coverage_ratio']:.1%} of the devices' time has utilization"
    return figures
