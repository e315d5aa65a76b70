"""What a report says, as data. How it looks is the business of the terminal and of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.advice import Advice, combine
from tokenstone.cost import Bill, Price, make_bill
from tokenstone.evaluate import REASONS, Evaluation
from tokenstone.reproduce import Reproduction, reproduction
from tokenstone.score.bottleneck import Bottleneck, bottleneck, money, seconds
from tokenstone.score.efficiency import efficiency
from tokenstone.wire import RunView

SCHEMA_VERSION = 1
HOW_TO_PRICE = "give a price with --price-per-device-hour, or --price-book FILE --price-row KEY"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Headline(_Row):
    """One figure and what it is."""

    title: str
    value: str
    unit: str
    note: str = ""


class Section(_Row):
    """One run of the report."""

    kind: Literal["training", "inference"]
    run: RunView
    evaluation: Evaluation
    headlines: list[Headline]
    environment: dict[str, str] = {}
    """Hardware, number of devices, limits, and what the run says of its software."""
    reproduce: Reproduction = Reproduction(command=None)
    """The command that does the same work again, scored at the same price."""


class Report(_Row):
    """One or several runs of one cluster, with the figures they have together."""

    schema_version: int = SCHEMA_VERSION
    title: str
    answer: str = ""
    """What came out, in one sentence."""
    cluster: str
    created_unix_seconds: float
    score: float | None
    bill: Bill | None
    """All tokens of all runs together; None where a ledger does not balance."""
    bottleneck: Bottleneck | None
    bottleneck_sentence: str
    advice: tuple[Advice, ...] = ()
    """What to change, the largest saving first: of the bill of all runs together, where there is one."""
    validity: list[str]
    validity_notes: list[str]
    price: Price | None
    price_note: str
    bills: list[Bill]
    """Training, input and output, in that order, as far as they were run."""
    ledger_seconds: dict[str, float]
    """Device-seconds by category, all runs together."""
    allocated_seconds: float
    sections: list[Section]


def build_report(evaluated: Sequence[tuple[RunView, Evaluation]], *, created_unix_seconds: float) -> Report:
    """Make the report of one or several evaluated runs. All of them have the same price."""
    evaluations = [evaluation for _, evaluation in evaluated]
    spent = _sum([evaluation.ledger.seconds for evaluation in evaluations])
    tokens = sum(evaluation.tokens.total for evaluation in evaluations)
    balanced = all(evaluation.ledger.balanced for evaluation in evaluations)
    bills = [bill for evaluation in evaluations for bill in _bills(evaluation)]
    price = next((bill.price for bill in bills if bill.price), None)
    bill = make_bill(spent, tokens, "all", price) if balanced else None
    worst = bottleneck(bill) if bill else None
    score = efficiency(e.ledger for e in evaluations) if all(e.score is not None for e in evaluations) else None
    codes = sorted({c for e in evaluations for c in e.validity if c != "valid"}) or ["valid"]
    return Report(
        title=" and ".join(dict.fromkeys(e.kind for e in evaluations)).capitalize(),
        answer=_answer(evaluated, score, bill, worst),
        cluster=evaluated[0][0].cluster,
        created_unix_seconds=created_unix_seconds,
        score=score,
        bill=bill,
        bottleneck=worst,
        bottleneck_sentence=_sentence(bill, worst),
        advice=tuple(
            combine(
                [(e.kind, e.ledger.allocated_seconds, e.advice) for e in evaluations],
                bill.usd_per_million_tokens if bill else None,
            )
        ),
        validity=codes,
        validity_notes=[REASONS[code] for code in codes],
        price=price,
        price_note=_price_note(price),
        bills=bills,
        ledger_seconds=spent,
        allocated_seconds=math.fsum(e.ledger.allocated_seconds for e in evaluations),
        sections=[
            Section(
                kind=evaluation.kind,
                run=run,
                evaluation=evaluation,
                headlines=_headlines(evaluation),
                environment=environment(run, evaluation),
                reproduce=reproduction(run.spec, price),
            )
            for run, evaluation in evaluated
        ],
    )


def environment(run: RunView, evaluation: Evaluation) -> dict[str, str]:
    """What a run was made on and with: hardware, devices, limits, and its own word on software."""
    hardware = sorted({device.hardware or device.model or "unknown" for device in run.devices})
    nodes = {device.node for device in run.devices}
    known = {
        "hardware": ", ".join(hardware),
        "devices": f"{len(run.devices):,} on {len(nodes):,} node{'s' if len(nodes) != 1 else ''}",
    }
    if evaluation.roofline:
        peak = float(evaluation.roofline["peak_flops_per_second"] or 0) / 1e12
        known["peak"] = f"{peak:,.4g} TFLOP/s {evaluation.roofline['dtype']} ({evaluation.roofline['provenance']})"
    return known | evaluation.provenance


def _answer(
    evaluated: Sequence[tuple[RunView, Evaluation]], score: float | None, bill: Bill | None, worst: Bottleneck | None
) -> str:
    """What a token costs, how good that is, and where most of the rest went."""
    cluster, number = evaluated[0][0].cluster, len(evaluated)
    what = evaluated[0][0].run_id if number == 1 else f"{number} runs"
    if bill is None:
        return f"What a token costs on {cluster} is not known: the ledger of {what} does not balance or has no token."
    if bill.usd_per_million_tokens is not None:
        cost = f"costs {money(bill.usd_per_million_tokens)}"
    else:
        cost = f"takes {seconds(bill.device_seconds_per_million_tokens)} device-seconds"
    marks = "" if score is None else f", at a score of {score:.1f} of 100"
    most = f"; the largest part beyond ideal work is {worst.title}, {worst.share_ratio:.0%}" if worst else ""
    return f"A million tokens {cost} on {cluster} ({what}){marks}{most}."


def _sum(ledgers: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for ledger in ledgers for name in ledger)
    return {name: math.fsum(ledger.get(name, 0.0) for ledger in ledgers) for name in names}


def _bills(evaluation: Evaluation) -> list[Bill]:
    bills = [evaluation.bill] if evaluation.kind == "training" else [evaluation.input_bill, evaluation.output_bill]
    return [bill for bill in bills if bill is not None]


def _sentence(bill: Bill | None, worst: Bottleneck | None) -> str:
    if bill is None:
        return "No bottleneck: there is no bill to find one in."
    if worst is None:
        return "No bottleneck: the hardware's limit is not known, or all of the time was ideal work."
    return f"{worst.sentence[0].upper()}{worst.sentence[1:]}."


def _price_note(price: Price | None) -> str:
    if price is None:
        return f"No price was given, so the bill is in device-seconds: {HOW_TO_PRICE}."
    return f"{money(price.usd_per_device_hour)} per device-hour ({price.basis}; {price.source})"


def _headlines(evaluation: Evaluation) -> list[Headline]:
    """The few figures of a run that people ask for first."""
    rows = [Headline(title="Score", value=_number(evaluation.score, "{:.1f}"), unit="of 100")]
    if evaluation.kind == "training":
        rows += [
            Headline(title="Trained", value=f"{evaluation.tokens.trained or 0:,}", unit="tokens"),
            Headline(
                title="Rate", value=f"{evaluation.tokens_per_second:,.0f}", unit="tokens/s", note="start-up included"
            ),
            Headline(title="MFU", value=_number(evaluation.mfu_ratio, "{:.1%}"), unit="", note="steps alone"),
            Headline(
                title="Loss",
                value=f"{_number(evaluation.loss_first, '{:.2f}')} → {_number(evaluation.loss_last, '{:.2f}')}",
                unit="",
            ),
            Headline(title="Expert balance", value=_number(evaluation.max_violation, "{:.2f}"), unit="MaxVio"),
        ]
        if evaluation.training is None:  # a job of its own tells what it can
            rows = [row for row in rows if row.title == "Score" or "absent" not in row.value]
    else:
        waits = evaluation.latencies
        ttft = waits.ttft_seconds if waits else None
        tpot = waits.tpot_seconds if waits else None
        rows += [
            Headline(title="Input", value=f"{evaluation.tokens.input or 0:,}", unit="tokens"),
            Headline(title="Output", value=f"{evaluation.tokens.output or 0:,}", unit="tokens"),
            Headline(title="TTFT p95", value=_number(ttft.p95 if ttft else None, "{:.3f}"), unit="s"),
            Headline(title="TPOT p95", value=_number(tpot.p95 * 1000 if tpot else None, "{:.1f}"), unit="ms"),
            Headline(title="Goodput", value=_number(evaluation.goodput_ratio, "{:.0%}"), unit="of requests"),
            Headline(
                title="Errors",
                value=f"{sum((evaluation.errors or {}).values()):,}",
                unit="requests",
                note=_errors(evaluation),
            ),
        ]
    return rows


def _errors(evaluation: Evaluation) -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in sorted((evaluation.errors or {}).items()))


def _number(value: float | None, form: str) -> str:
    return "absent" if value is None else form.format(value)
