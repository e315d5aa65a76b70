"""How a bracketed run looks in a terminal: on stderr, below whatever the program has printed."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from cli.terminal import advice_line, ledger_bar
from tokenstone.advice import Advice
from tokenstone.score.bottleneck import money


def print_run(document: dict[str, Any], console: Console) -> None:
    """Print what the run cost and how its time was spent."""
    console.print(f"\n[bold]{document['name']}[/] ended with {document['exit_code']}: {_cost(document)}")
    console.print(ledger_bar(document["ledger_seconds"]))
    rows = [row for row in document["panel"] if row["mean_ratio"] is not None]
    busy = "   ".join(f"{row['resource']} {row['mean_ratio']:.1%}" for row in rows)
    if busy:
        console.print(f" {busy}")
    absent = [f"{row['resource']} ({row['absent_reason']})" for row in document["panel"] if row["mean_ratio"] is None]
    if document["joules"] is not None:
        console.print(f" energy {document['joules'] / 3.6e6:,.4g} kWh")
    else:
        absent.append(f"energy ({document['joules_reason']})")
    if absent:
        console.print(f" Absent: {'; '.join(absent)}.", style="dim")
    if not document["marked"]:
        console.print(
            " From outside, computation and communication are one; tokenstone.record tells more.", style="dim"
        )
    for found in document["advice"]:
        console.print(advice_line(Advice.model_validate(found)))
    if document["report_path"]:
        console.print(f" Report: {document['report_path']}")


def _cost(document: dict[str, Any]) -> str:
    held = f"{document['devices']} x {document['wall_seconds']:,.2f} s"
    parts = [f"{held} = {document['allocated_seconds']:,.4g} device-seconds"]
    if document["usd"] is not None:
        parts.append(money(document["usd"]))
    if document["usd_per_million_tokens"] is not None:
        parts.append(f"{money(document['usd_per_million_tokens'])} per million tokens")
    elif document["tokens"]:
        parts.append(f"{document['device_seconds_per_million_tokens']:,.4g} device-seconds per million tokens")
    if document["score"] is not None:
        parts.append(f"score {document['score']:.1f} of 100")
    return ", ".join(parts)
