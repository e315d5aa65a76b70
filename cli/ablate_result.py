"""What the runs of `ablate` say about each technique: rates, costs, and whether the difference could be chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cli.ablate_plan import PlannedRun, Side, Technique
from tokenstone.compare import INSUFFICIENT, RatioEstimate, compare_runs, holm
from tokenstone.cost import Price
from tokenstone.errors import WorkloadFailed
from tokenstone.evaluate import Evaluation

SIGNIFICANCE = 0.05
HELPS, COSTS, NO_DIFFERENCE = "helps", "costs", "no difference shown"


@dataclass(frozen=True, slots=True)
class SideResult:
    """The runs of one side, the counted steps alone: start-up, longer than the steps of short runs, is left out."""

    run_ids: list[str]
    rates: list[float]
    """Tokens per second of each run."""
    tokens_per_second: float
    """Their geometric mean."""
    device_seconds_per_million_tokens: float
    usd_per_million_tokens: float | None
    exposed_communication_ratio: float
    bubble_ratio: float
    max_violation: float | None
    loss_last: float | None
    peak_memory_bytes: float | None
    """Of the first rank's process or device, the largest of the runs."""
    precision: str | None
    """What multiplied in FP8, and whether that was emulated."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one technique is worth here."""

    technique: Technique
    off: SideResult
    on: SideResult
    estimate: RatioEstimate
    """Tokens per second with it over those without."""
    p_adjusted: float | None
    """By Holm, over all techniques of the table; None with too few runs."""
    verdict: str


@dataclass(frozen=True, slots=True)
class Ablation:
    """The whole table."""

    preset: str
    runs: int
    """Runs a side."""
    steps: int
    """Counted steps of a run; a technique whose runs have more says so in its conditions."""
    price: Price | None
    results: list[Result]
    validity: list[str]


def summarise(planned: Sequence[PlannedRun], evaluations: Sequence[Evaluation]) -> Ablation:
    """Compare the sides of each technique. `evaluations[i]` is of `planned[i]`; raises WorkloadFailed."""
    done = list(zip(planned, evaluations, strict=True))
    techniques = list({run.technique.name: run.technique for run in planned}.values())
    price = next((e.bill.price for e in evaluations if e.bill and e.bill.price), None)

    def side(technique: Technique, which: Side) -> SideResult:
        of_side = [e for run, e in done if run.technique.name == technique.name and run.side == which]
        return _side(of_side, technique.spec(which).layout.ranks, price)

    sides = [(side(technique, "off"), side(technique, "on")) for technique in techniques]
    estimates = [compare_runs(off.rates, on.rates) for off, on in sides]
    adjusted = iter(holm([e.p_value for e in estimates if e.p_value is not None]))
    results = []
    for technique, (off, on), estimate in zip(techniques, sides, estimates, strict=True):
        p = None if estimate.p_value is None else next(adjusted)
        results.append(Result(technique, off, on, estimate, p, _verdict(estimate.ratio, p)))
    first = planned[0]
    return Ablation(
        preset=first.technique.off.preset,
        runs=first.repetitions,
        steps=min(run.technique.off.steps for run in planned),
        price=price,
        results=results,
        validity=sorted({c for e in evaluations for c in e.validity if c != "valid"}) or ["valid"],
    )


def _verdict(ratio: float, p: float | None) -> str:
    if p is None:
        return INSUFFICIENT
    if p >= SIGNIFICANCE:
        return NO_DIFFERENCE
    return HELPS if ratio > 1 else COSTS


def _side(evaluations: list[Evaluation], ranks: int, price: Price | None) -> SideResult:
    rates = [_rate(evaluation) for evaluation in evaluations]
    rate = statistics.geometric_mean(rates)
    usd = None if price is None else price.usd_per_device_hour / 3600 * ranks / rate * 1e6
    memories = [e.provenance.get("peak_memory_bytes", "") for e in evaluations]
    return SideResult(
        run_ids=[e.run_id for e in evaluations],
        rates=rates,
        tokens_per_second=rate,
        device_seconds_per_million_tokens=ranks / rate * 1e6,
        usd_per_million_tokens=usd,
        exposed_communication_ratio=_share_of_steps(evaluations, ranks, "exposed_communication"),
        bubble_ratio=_share_of_steps(evaluations, ranks, "pipeline_bubble"),
        max_violation=_mean([e.max_violation for e in evaluations]),
        loss_last=_mean([e.loss_last for e in evaluations]),
        peak_memory_bytes=max((float(text) for text in memories if text.isdecimal()), default=None),
        precision=evaluations[0].provenance.get("precision"),
    )


def _rate(evaluation: Evaluation) -> float:
    if not evaluation.step_tokens_per_second:
        raise WorkloadFailed(f"run {evaluation.run_id} has no step to measure", where="ablate")
    return evaluation.step_tokens_per_second


def _share_of_steps(evaluations: list[Evaluation], ranks: int, category: str) -> float:
    """Share of the steps' device-seconds, mean of the runs."""
    return statistics.fmean(
        e.ledger.seconds.get(category, 0.0) / (ranks * e.tokens.total / _rate(e)) for e in evaluations
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None
