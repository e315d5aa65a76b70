"""Latency of requests, by the definitions that are printed with every result (`DEFINITIONS`).

Latencies are those of requests that succeeded; one that failed has missed the objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from tokenstone.run import Objective
from tokenstone.wire import Histogram, RequestTimes

DEFINITIONS: dict[str, str] = {
    "TTFT": "first token - arrival; arrival is when the request was due, also where the client sent it later",
    "TPOT": "(E2E - TTFT) / (n - 1), for the n > 1 tokens of a request",
    "ITL": "each gap between two events of one answer that carry tokens; all gaps of all requests together",
    "E2E": "last token - arrival",
    "percentiles": "linear between order statistics, over the requests of this run that succeeded",
    "goodput": "requests (and their output tokens) that met every limit of the objective; a failed one has missed it",
}
"""What the words mean."""


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
    itl_seconds: Percentiles | None = None
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


def histogram(values: Iterable[float]) -> Histogram:
    """Count durations, in seconds, in buckets that grow by 1 %. What is below a nanosecond counts as that."""
    buckets: dict[int, int] = {}
    total, step = 0.0, math.log(Histogram().growth)
    for value in values:
        bucket = math.ceil(math.log(max(value, 1e-9)) / step)
        buckets[bucket] = buckets.get(bucket, 0) + 1
        total += max(value, 0.0)
    return Histogram(buckets=buckets, sum_seconds=total)


def histogram_percentiles(counted: Histogram | None) -> Percentiles | None:
    """Summarise; the percentile of a bucket is its geometric middle.

    >>> summary = histogram_percentiles(histogram([0.01] * 98 + [0.5] * 2))
    >>> summary.count, round(summary.mean, 6), round(summary.p50, 3), round(summary.p99, 2)
    (100, 0.0198, 0.01, 0.5)
    """
    if counted is None or not counted.buckets:
        return None
    ordered = sorted(counted.buckets.items())
    count = sum(number for _, number in ordered)

    def at(q: float) -> float:
        rank, seen = math.ceil(q * count), 0
        for bucket, number in ordered:
            seen += number
            if seen >= rank:
                return float(counted.growth ** (bucket - 0.5))
        raise AssertionError("the ranks of a histogram end at its count")

    p50, p90, p95, p99 = (at(q) for q in (0.50, 0.90, 0.95, 0.99))
    return Percentiles(count=count, mean=counted.sum_seconds / count, p50=p50, p90=p90, p95=p95, p99=p99)


def _each(requests: RequestTimes) -> list[tuple[float | None, float | None, float | None]]:
    """(TTFT, TPOT, E2E) of each request; nothing of one that failed."""
    result: list[tuple[float | None, float | None, float | None]] = []
    columns = (requests.arrival_seconds, requests.first_token_seconds, requests.end_seconds, requests.output_tokens)
    for arrival, first, end, tokens, failed in zip(*columns, requests.failed, strict=True):
        if failed:
            result.append((None, None, None))
            continue
        ttft = None if first is None else first - arrival
        e2e = None if end is None else end - arrival
        tpot = None
        if first is not None and end is not None and tokens > 1:
            tpot = (end - first) / (tokens - 1)
        result.append((ttft, tpot, e2e))
    return result


def latencies(requests: RequestTimes, inter_token: Histogram | None = None) -> Latencies:
    """Distributions over all requests of a run that succeeded."""
    each = _each(requests)
    return Latencies(
        ttft_seconds=percentiles([ttft for ttft, _, _ in each if ttft is not None]),
        tpot_seconds=percentiles([tpot for _, tpot, _ in each if tpot is not None]),
        itl_seconds=histogram_percentiles(inter_token),
        e2e_seconds=percentiles([e2e for _, _, e2e in each if e2e is not None]),
    )


def missed(requests: RequestTimes, objective: Objective | None) -> list[bool]:
    """Whether each request missed the objective. One that failed has; without an objective no other does."""
    limits: tuple[float | None, float | None, float | None] = (None, None, None)
    if objective is not None:
        limits = (objective.ttft_seconds, objective.tpot_seconds, objective.e2e_seconds)
    result = []
    for ttft, tpot, e2e in _each(requests):
        if ttft is None or e2e is None:
            result.append(True)
        else:
            taken = zip((ttft, tpot, e2e), limits, strict=True)
            result.append(any(limit is not None and (seconds or 0.0) > limit for seconds, limit in taken))
    return result
