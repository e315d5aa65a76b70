"""How the reading of traces looks: a JSON document with stable keys, and tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cli.terminal import advice_line, ledger_bar
from tokenstone.advice import Advice, advise
from tokenstone.cost import Bill
from tokenstone.ledger import Ledger
from tokenstone.roofline import Roofline
from tokenstone.score.bottleneck import TITLES, bottleneck, money
from tokenstone.score.efficiency import efficiency
from tokenstone.trace.job import JobTrace

_UNSPLIT = {
    "unknown_peak": "give --model and --tokens, or --flops; and --hardware where the trace names no known device",
    "peak_exceeded": "that much work in that much time is beyond the hardware's peak; is it all in this trace?",
}
_MOST_RANKS = 16
"""Ranks shown one by one in the terminal; the document has all."""


def document(job: JobTrace, ledger: Ledger, bill: Bill | None, roofline: Roofline | None) -> dict[str, Any]:
    """The document of `tokenstone trace --json`. Scripts rely on its keys. Sums over ranks stand at the top."""
    straggler = job.straggler()
    return {
        **job.totals(),
        "ranks": [device.figures() for device in job.devices],
        "straggler": {"name": straggler[0], "others_wait_us": straggler[1]} if straggler else None,
        "device_name": job.device_name,
        "ledger_seconds": ledger.seconds,
        "allocated_seconds": ledger.allocated_seconds,
        "residual_seconds": ledger.residual_seconds,
        "score": efficiency([ledger]),
        "peak": roofline and {"hardware": roofline.hardware, "dtype": roofline.dtype,
                              "flops_per_second": roofline.peak_flops_per_second, "source": roofline.source},
        "bill": bill and bill.model_dump(mode="json"),
        "advice": [found.model_dump(mode="json") for found in _advice(ledger, bill)],
        "validity": ledger.reasons or ["valid"],
        "notes": job.notes,
    }  # fmt: skip


def print_trace(job: JobTrace, ledger: Ledger, bill: Bill | None, roofline: Roofline | None, console: Console) -> None:
    """Print the ranks, the ledger, the kernels, and the bill if there is one."""
    console.print(_ranks(job))
    console.print()
    console.print(ledger_bar(ledger.seconds))
    score = efficiency([ledger])
    if score is not None and roofline is not None:
        console.print(f"\n[bold]SCORE {score:.1f} of 100[/] against {roofline.hardware} in {roofline.dtype}")
    console.print()
    console.print(_pairs("Kernels, summed over streams", _summed(job, "kernels_us")))
    console.print()
    console.print(_pairs("Nothing ran, by cause", _summed(job, "idle_by_cause_us")))
    if straggler := job.straggler():
        console.print(f"\nSlowest: {straggler[0]}; the others wait {_time(straggler[1])} for it on average.")
    if bill is not None:
        console.print()
        console.print(_bill(bill))
        if worst := bottleneck(bill):
            console.print(worst.sentence, style="yellow")
    for found in _advice(ledger, bill):
        console.print(advice_line(found))
    for note in job.notes:
        console.print(f"Note: {note}.", style="dim")
    for reason in ledger.reasons:
        console.print(f"Compute is not split: {_UNSPLIT.get(reason, reason)}.", style="dim")


def _advice(ledger: Ledger, bill: Bill | None) -> list[Advice]:
    return advise(ledger.seconds, usd_per_million_tokens=bill.usd_per_million_tokens if bill else None)


def _ranks(job: JobTrace) -> Table:
    title = f"{job.device_name or 'devices'}: where the traced time went"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for name in ("span", "busy", "compute", "communication", "of it hidden", "exposed", "waiting", "idle"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in job.devices[:_MOST_RANKS]:
        span = device.span_us
        hidden = device.overlap_us / device.communication_us if device.communication_us else None
        table.add_row(
            device.name, _time(span), _share(device.busy_us, span), _share(device.compute_us, span),
            _share(device.communication_us, span), "" if hidden is None else f"{hidden:.1%}",
            _share(device.exposed_communication_us, span),
            "unknown" if device.waiting_us is None else _share(device.waiting_us, span), _share(device.idle_us, span),
        )  # fmt: skip
    if len(job.devices) > _MOST_RANKS:
        table.caption = f"... and {len(job.devices) - _MOST_RANKS} more; --json has all"
    return table


def _summed(job: JobTrace, attribute: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for device in job.devices:
        for name, value in getattr(device, attribute).items():
            sums[name] = sums.get(name, 0.0) + value
    return dict(sorted(((n, v) for n, v in sums.items() if v > 0), key=lambda pair: -pair[1]))


def _pairs(title: str, values: dict[str, float]) -> Group:
    total = sum(values.values())
    shown = "   ".join(f"{name} {_time(value)} ({value / total:.1%})" for name, value in values.items()) or "none"
    return Group(Text(title, style="bold"), Text(shown))


def _bill(bill: Bill) -> Table:
    table = Table(title="Bill, per million tokens", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("device-seconds", justify="right")
    table.add_column("$", justify="right")
    for line in bill.lines:
        if line.device_seconds > 0:
            seconds = line.device_seconds_per_million_tokens
            table.add_row(TITLES[line.category], f"{seconds:,.2f}", _money(line.usd_per_million_tokens))
    total = bill.device_seconds_per_million_tokens
    table.add_row("total", f"{total:,.2f}", _money(bill.usd_per_million_tokens), style="bold")
    return table


def _money(value: float | None) -> str:
    return "no price" if value is None else money(value)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}"


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:,.3f} s"
    return f"{microseconds / 1e3:,.3f} ms"
