"""Runs against runs: every figure that both sides have, each judged by Welch's t, all of them together by Holm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from api.views import Comparison, MetricRatio
from tokenstone.compare import compare_runs, holm
from tokenstone.errors import Conflict, InvalidValue
from tokenstone.evaluate import Evaluation
from tokenstone.wire import RunView

Side = Sequence[tuple[RunView, Evaluation]]

METRICS: dict[str, Callable[[Evaluation], float | None]] = {
    "score": lambda e: e.score,
    "tokens_per_second": lambda e: e.tokens_per_second,
    "device_seconds_per_million_tokens": lambda e: e.bill.device_seconds_per_million_tokens if e.bill else None,
    "usd_per_million_tokens": lambda e: e.bill.usd_per_million_tokens if e.bill else None,
}
"""Figures of a run that are compared; b over a."""


def compare_evaluations(a: Side, b: Side) -> Comparison:
    """Compare the runs of b with those of a by their latest evaluations.

    Raises Conflict for runs of several specs, and InvalidValue for a side of several clusters or a run on both sides.
    """
    specs = {run.spec_id for run, _ in (*a, *b)}
    if len(specs) > 1:
        raise Conflict(
            f"the runs are of {len(specs)} specs ({', '.join(sorted(specs))})",
            where="query",
            hint="only runs of one spec compare as like with like",
        )
    both = {run.run_id for run, _ in a} & {run.run_id for run, _ in b}
    if both:
        raise InvalidValue(f"run {min(both)} is on both sides", where="query.b", hint="name each run once")
    ratios = [_ratio(name, figure, a, b) for name, figure in METRICS.items()]
    judged = [m for m in ratios if m.ratio is not None and m.ratio.p_value is not None]
    adjusted = dict(zip((m.metric for m in judged), holm([_p(m) for m in judged]), strict=True))
    cluster_a, cluster_b = _cluster(a, "query.a"), _cluster(b, "query.b")
    return Comparison(
        spec_id=min(specs),
        cluster_a=cluster_a,
        cluster_b=cluster_b,
        metrics=[m.model_copy(update={"adjusted_p_value": adjusted.get(m.metric)}) for m in ratios],
        notes=_notes(cluster_a, cluster_b),
    )


def _ratio(name: str, figure: Callable[[Evaluation], float | None], a: Side, b: Side) -> MetricRatio:
    sides = [[figure(evaluation) for _, evaluation in side] for side in (a, b)]
    values = [[v for v in side if v is not None] for side in sides]
    reason, ratio = "", None
    if len(values[0]) < len(a) or len(values[1]) < len(b):
        reason = "not every run has this figure"
    elif not all(math.isfinite(v) and v > 0 for v in (*values[0], *values[1])):
        reason = "a figure of 0 has no ratio to anything"
    else:
        ratio = compare_runs(values[0], values[1])
        reason = ratio.reason
        if ratio.high is not None and not math.isfinite(ratio.high):
            ratio, reason = None, "so few runs that differ so much bound nothing"
    return MetricRatio(metric=name, a=values[0], b=values[1], ratio=ratio, adjusted_p_value=None, reason=reason)


def _p(metric: MetricRatio) -> float:
    assert metric.ratio is not None  # noqa: S101  chosen so
    assert metric.ratio.p_value is not None  # noqa: S101
    return metric.ratio.p_value


def _cluster(side: Side, where: str) -> str:
    clusters = {run.cluster for run, _ in side}
    if len(clusters) > 1:
        raise InvalidValue(f"runs of {len(clusters)} clusters on one side", where=where, hint="one cluster a side")
    return min(clusters)


def _notes(a: str, b: str) -> list[str]:
    notes = ["the unit of replication is the run; ratios are b over a, of geometric means, with 95 % intervals (Welch)"]
    if a != b:
        notes.append(
            "the sides are different clusters: the interval covers the luck of runs, not that of another day or node"
        )
    return notes
