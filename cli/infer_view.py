"""How a load looks in a terminal: latencies and goodput, with their definitions."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tokenstone.evaluate import Evaluation
from tokenstone.latency import DEFINITIONS, Percentiles
from tokenstone.objectives import describe
from tokenstone.report import Section
from tokenstone.run import InferenceSpec


def print_load(section: Section, console: Console) -> None:
    """Print what the requests of a load waited, how many met the objective, and what failed."""
    evaluation, spec = section.evaluation, section.run.spec
    assert isinstance(spec, InferenceSpec)  # noqa: S101  a load has no other
    console.print()
    console.print(_latencies(evaluation))
    console.print()
    for line in _goodput(evaluation, spec):
        console.print(line)
    if evaluation.client is not None:
        lag = evaluation.client
        console.print(
            f"Client's own lag, p99: sending {lag.send_p99_seconds * 1e3:.2f} ms, waking "
            f"{lag.loop_p99_seconds * 1e3:.2f} ms (saturated above {lag.limit_seconds * 1e3:.0f} ms)"
        )
    for kind in sorted(evaluation.errors or {}):
        console.print(
            f"  {kind}: for example {evaluation.provenance.get(f'error_{kind}', '')}", style="dim", markup=False
        )
    if bad := evaluation.provenance.get("trace_bad_lines"):
        console.print(f"Lines of the trace that are no request: {bad}", style="yellow", markup=False)
    console.print()
    for name, meaning in DEFINITIONS.items():
        console.print(f"{name}: {meaning}", style="dim")


def _latencies(evaluation: Evaluation) -> Table:
    table = Table(title="Latency, milliseconds", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for name in ("count", "mean", "p50", "p90", "p95", "p99"):
        table.add_column(name, justify="right")
    waits = evaluation.latencies
    for name, key in (
        ("TTFT", "ttft_seconds"),
        ("TPOT", "tpot_seconds"),
        ("ITL", "itl_seconds"),
        ("E2E", "e2e_seconds"),
    ):
        found: Percentiles | None = getattr(waits, key) if waits else None
        if found is None:
            table.add_row(name, "0", *["absent"] * 5)
        else:
            values = (found.mean, found.p50, found.p90, found.p95, found.p99)
            table.add_row(name, f"{found.count:,}", *(f"{value * 1e3:,.2f}" for value in values))
    return table


def _goodput(evaluation: Evaluation, spec: InferenceSpec) -> list[str]:
    errors = evaluation.errors or {}
    failed = ", ".join(f"{kind} {number:,}" for kind, number in sorted(errors.items()))
    rate = evaluation.output_tokens_per_second
    lines = [
        f"{evaluation.requests or 0:,} requests, {sum(errors.values()):,} failed{f' ({failed})' if failed else ''}; "
        + ("no output" if rate is None else f"{rate:,.1f} output tokens/s"),
    ]
    if spec.objective is None:
        return [*lines, "Goodput: absent, no objective was given (--slo)"]
    good = evaluation.goodput_ratio
    by_request, by_token = evaluation.goodput_requests_per_second, evaluation.goodput_tokens_per_second
    if good is None or by_request is None or by_token is None:
        return [*lines, "Goodput: absent, no request ended"]
    return [
        *lines,
        f"Goodput under {describe(spec.objective)}: {good:.1%} of requests, {by_request:,.2f} requests/s, "
        f"{by_token:,.1f} output tokens/s",
    ]
