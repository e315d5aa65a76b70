"""Latency of requests, by the definitions that are printed with every result.

    TTFT = first token - arrival          E2E = end - arrival          TPOT = (E2E - TTFT) / (n - 1)

A request meets the objective if it ended and neither its TTFT nor its TPOT is over the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tokenstone.run import Objective
from tokenstone.wire import RequestTimes


class Percentiles(BaseModel):
    """Distribution over the requests of one run, in seconds."""

    model_config = ConfigDict(frozen=True)

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class Latencies(BaseModel):
    """What requests waited. None where no request got so far."""

    model_config = ConfigDict(frozen=True)

    ttft_seconds: Percentiles | None
    tpot_seconds: Percentiles | None
    e2e_seconds: Percentiles | None


def percentile(values: Sequence[float], q: float) -> float:
    """Percentile with linear interpolation between the order statistics (numpy's default).

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Summarise; None for no values."""
    if not values:
        return None
    p50, p90, p95, p99 = (percentile(values, q) for q in (0.50, 0.90, 0.95, 0.99))
    mean = math.fsum(values) / len(values)
    return Percentiles(count=len(values), mean=mean, p50=p50, p90=p90, p95=p95, p99=p99)


def _each(requests: RequestTimes) -> list[tuple[float | None, float | None, float | None]]:
    """(TTFT, TPOT, E2E) of each request."""
    result = []
    columns = (requests.arrival_seconds, requests.first_token_seconds, requests.end_seconds, requests.output_tokens)
    for arrival, first, end, tokens in zip(*columns, strict=True):
        ttft = None if first is None else first - arrival
        e2e = None if end is None else end - arrival
        tpot = None
        if first is not None and end is not None and tokens > 1:
            tpot = (end - first) / (tokens - 1)
        result.append((ttft, tpot, e2e))
    return result


def latencies(requests: RequestTimes) -> Latencies:
    """Distributions over all requests of a run."""
    each = _each(requests)
    return Latencies(
        ttft_seconds=percentiles([ttft for ttft, _, _ in each if ttft is not None]),
        tpot_seconds=percentiles([tpot for _, tpot, _ in each if tpot is not None]),
        e2e_seconds=percentiles([e2e for _, _, e2e in each if e2e is not None]),
    )


def missed(requests: RequestTimes, objective: Objective | None) -> list[bool]:
    """Whether each request missed the objective. One that never ended has; without an objective no other does."""
    result = []
    for ttft, tpot, e2e in _each(requests):
        if ttft is None or e2e is None:
            result.append(True)
        elif objective is None:
            result.append(False)
        else:
            result.append(ttft > objective.ttft_seconds or (tpot or 0.0) > objective.tpot_seconds)
    return result
