"""The frontier of a serving system: what throughput costs in interactivity, and the tokens in money."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokenstone.cost import MILLION
from tokenstone.evaluate import Evaluation
from tokenstone.objectives import ATTAINMENT
from tokenstone.run import InferenceSpec, Objective

DEFINITIONS = {
    "interactivity": "1 / median TPOT: tokens a second that one user sees",
    "output_tokens_per_second_per_device": "output tokens over devices and seconds from first arrival to last end",
    "cost": "devices x seconds from the first arrival to the last end, start-up not included, at the price (without "
    "one, in device-seconds); split between input and output by measured prefill and decode time",
    "meets_objective": f"{ATTAINMENT:.0%} of all requests met every limit",
    "highest_rate": "bisection over Poisson arrivals, of at most 6 loads: a rate that misses is at most 10 % higher, "
    "unless the tries ended before",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One load. None where it could not be measured; `validity` says why."""

    run_id: str
    arrival: str
    concurrency: int | None
    rate: float | None
    requests: int
    errors: int
    requests_per_second: float | None
    output_tokens_per_second_per_device: float | None
    tokens_per_second_per_device: float | None
    interactivity: float | None
    ttft_p99_seconds: float | None
    tpot_p99_seconds: float | None
    goodput_ratio: float | None
    meets_objective: bool | None
    per_million_input_tokens: float | None
    per_million_output_tokens: float | None
    validity: list[str]


@dataclass(frozen=True, slots=True)
class Frontier:
    """All loads of a sweep."""

    model: str
    objective: Objective | None
    points: list[Point]
    highest_rate: float | None
    cost_unit: str = "device-seconds"
    """Or "usd"."""

    @property
    def best(self) -> list[Point]:
        """Closed loops that no other beats in both throughput and interactivity."""
        closed = [p for p in self.points if p.output_tokens_per_second_per_device and p.interactivity]
        return [
            p for p in closed
            if not any(
                (q.output_tokens_per_second_per_device or 0) > (p.output_tokens_per_second_per_device or 0)
                and (q.interactivity or 0) > (p.interactivity or 0)
                for q in closed
            )
        ]  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The document of `infer --sweep --json`."""
        return {
            "model": self.model,
            "objective": self.objective.model_dump() if self.objective else None,
            "highest_rate_within_objective": self.highest_rate,
            "points": [asdict(point) for point in self.points],
            "frontier": [point.run_id for point in self.best],
            "cost_unit": self.cost_unit,
            "definitions": DEFINITIONS,
        }


def make_point(evaluation: Evaluation, spec: InferenceSpec, *, devices: int | None) -> Point:
    """One load of a sweep. `devices`: None where nobody said how many there are."""
    traffic, waits = spec.arrivals, evaluation.latencies
    written, read = evaluation.tokens.output or 0, evaluation.tokens.input or 0
    rate = evaluation.output_tokens_per_second
    seconds = written / rate if rate and written else None
    ratio = evaluation.ledger.prefill_ratio
    cost = None
    if seconds is not None and devices is not None:
        price = evaluation.bill.price if evaluation.bill else None
        cost = seconds * devices * (1.0 if price is None else price.usd_per_device_second)
    tpot = waits.tpot_seconds if waits else None
    ttft = waits.ttft_seconds if waits else None
    errors = sum((evaluation.errors or {}).values())
    requests = evaluation.requests or 0
    return Point(
        run_id=evaluation.run_id,
        arrival=traffic.arrival,
        concurrency=traffic.concurrency if traffic.arrival == "closed" else None,
        rate=traffic.rate,
        requests=requests,
        errors=errors,
        requests_per_second=(requests - errors) / seconds if seconds else None,
        output_tokens_per_second_per_device=rate / devices if rate and devices else None,
        tokens_per_second_per_device=(read + written) / seconds / devices if seconds and devices else None,
        interactivity=1.0 / tpot.p50 if tpot and tpot.p50 > 0 else None,
        ttft_p99_seconds=ttft.p99 if ttft else None,
        tpot_p99_seconds=tpot.p99 if tpot else None,
        goodput_ratio=evaluation.goodput_ratio,
        meets_objective=None if evaluation.goodput_ratio is None else evaluation.goodput_ratio >= ATTAINMENT,
        per_million_input_tokens=_share(cost, ratio, read),
        per_million_output_tokens=_share(cost, None if ratio is None else 1.0 - ratio, written),
        validity=evaluation.validity,
    )


def _share(cost: float | None, share: float | None, tokens: int) -> float | None:
    return None if cost is None or share is None or not tokens else cost * share / tokens * MILLION
