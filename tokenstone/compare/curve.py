"""What output tokens cost against the latency that they must keep: one curve a side.

For a limit L on TPOT (or TTFT), only tokens of requests within L count. What the whole of decode took does not depend
on L, so the cost per million tokens within the objective is

    device-seconds of output / output tokens of requests within L · 1e6

A side of several loads (a sweep) gives at each limit the cheapest of its loads; repeated runs of one load give their
geometric mean, and a load counts at a limit only if all its runs have tokens within it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from tokenstone.compare.figures import geometric_mean
from tokenstone.compare.side import Row, RunFigures, Side
from tokenstone.cost import MILLION
from tokenstone.latency import missed
from tokenstone.run import Objective
from tokenstone.wire import InferenceFacts, RequestTimes

Quantity = Literal["tpot", "ttft"]
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


class CurvePoint(Row):
    """Cost under one limit; None where no request keeps it."""

    limit_seconds: float
    device_seconds_per_million_tokens: float | None
    usd_per_million_tokens: float | None
    within_ratio: float
    """Share of the load's output tokens within the limit."""
    spec_id: str | None
    """The load that is cheapest here."""


class ObjectiveCurve(Row):
    """Cost per million output tokens of one side against the limit."""

    side: str
    quantity: Quantity
    points: list[CurvePoint]


class _Load(Row):
    """One run's part of a curve."""

    spec_id: str
    output_device_seconds: float
    usd_per_device_second: float | None
    output_tokens: int
    requests: RequestTimes


def objective_curves(
    sides: Sequence[tuple[str, Side]], facts: Mapping[str, InferenceFacts], output_seconds: Mapping[str, float]
) -> list[ObjectiveCurve]:
    """Curves of all sides over the same limits. Empty where no run of serving has its facts.

    `facts` and `output_seconds` (device-seconds of the output bill) by run id.
    """
    loads = {
        name: [_load(run, facts[run.run_id], output_seconds[run.run_id]) for run in side.runs
               if run.run_id in facts and run.run_id in output_seconds]
        for name, side in sides
    }  # fmt: skip
    curves = []
    quantities: tuple[Quantity, ...] = ("tpot", "ttft")
    for quantity in quantities:
        seen = [s for side in loads.values() for load in side for s in _seconds(load.requests, quantity)]
        if seen:
            limits = _limits(min(seen), max(seen))
            curves += [
                ObjectiveCurve(side=name, quantity=quantity, points=[_point(side, quantity, limit) for limit in limits])
                for name, side in loads.items()
                if side
            ]
    return curves


def _load(run: RunFigures, facts: InferenceFacts, seconds: float) -> _Load:
    price = run.bill.price if run.bill else None
    return _Load(
        spec_id=run.spec_id, output_device_seconds=seconds, requests=facts.requests,
        output_tokens=sum(facts.requests.output_tokens),
        usd_per_device_second=None if price is None else price.usd_per_device_second,
    )  # fmt: skip


def _seconds(requests: RequestTimes, quantity: Quantity) -> list[float]:
    """The waits that were seen, above 0."""
    columns = zip(
        requests.arrival_seconds, requests.first_token_seconds, requests.end_seconds, requests.output_tokens,
        strict=True,
    )  # fmt: skip
    waits = []
    for arrival, first, end, tokens in columns:
        if first is not None and quantity == "ttft":
            waits.append(first - arrival)
        elif first is not None and end is not None and tokens > 1:
            waits.append((end - first) / (tokens - 1))
    return [wait for wait in waits if wait > 0]


def _limits(least: float, most: float) -> list[float]:
    """Round limits that enclose what was seen: 1, 1.5, 2, 3, 5, 7, 10, ..."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    every = [float(f"{step:g}e{power}") for power in range(first - 1, last + 1) for step in _STEPS]
    lowest = max((limit for limit in every if limit <= least), default=every[0])
    highest = min(limit for limit in every if limit >= most)
    return [limit for limit in every if lowest <= limit <= highest]


def _point(loads: Sequence[_Load], quantity: Quantity, limit: float) -> CurvePoint:
    objective = Objective(tpot_seconds=limit) if quantity == "tpot" else Objective(ttft_seconds=limit)
    best: CurvePoint | None = None
    for spec_id in sorted({load.spec_id for load in loads}):
        point = _of_load([load for load in loads if load.spec_id == spec_id], objective, limit)
        cost = point.device_seconds_per_million_tokens
        if cost is not None and (best is None or cost < (best.device_seconds_per_million_tokens or math.inf)):
            best = point
    return best or CurvePoint(
        limit_seconds=limit, device_seconds_per_million_tokens=None, usd_per_million_tokens=None, within_ratio=0.0,
        spec_id=None,
    )  # fmt: skip


def _of_load(runs: Sequence[_Load], objective: Objective, limit: float) -> CurvePoint:
    costs, dollars, shares = [], [], []
    for run in runs:
        late = missed(run.requests, objective)
        good = sum(n for n, is_late in zip(run.requests.output_tokens, late, strict=True) if not is_late)
        shares.append(good / run.output_tokens if run.output_tokens else 0.0)
        if good:
            costs.append(run.output_device_seconds / good * MILLION)
            if run.usd_per_device_second is not None:
                dollars.append(costs[-1] * run.usd_per_device_second)
    whole = len(costs) == len(runs)
    return CurvePoint(
        limit_seconds=limit,
        device_seconds_per_million_tokens=geometric_mean(costs) if whole else None,
        usd_per_million_tokens=geometric_mean(dollars) if whole and len(dollars) == len(runs) else None,
        within_ratio=sum(shares) / len(shares),
        spec_id=runs[0].spec_id,
    )
