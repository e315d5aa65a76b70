"""The figures that are compared, each with its interval by run; all of them together by Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenstone.compare.ratio import RatioEstimate, compare_runs, holm
from tokenstone.compare.side import Row, Side

SIGNIFICANCE = 0.05
USD, SECONDS = "usd_per_million_tokens", "device_seconds_per_million_tokens"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run."""

    title: str
    unit: str
    better: Literal["less", "more"]
    always: bool = False
    """Listed even where no run has it, because people look for it."""


METRICS: dict[str, Metric] = {
    "score": Metric("Score", "of 100", "more", always=True),
    "tokens_per_second": Metric("Tokens per second", "1/s", "more", always=True),
    SECONDS: Metric("Device-seconds per million tokens", "s", "less", always=True),
    USD: Metric("$ per million tokens", "$", "less", always=True),
    "usd_per_million_input_tokens": Metric("$ per million input tokens", "$", "less"),
    "usd_per_million_output_tokens": Metric("$ per million output tokens", "$", "less"),
    "ttft_p99_seconds": Metric("TTFT, 99th percentile", "s", "less"),
    "tpot_p99_seconds": Metric("TPOT, 99th percentile", "s", "less"),
    "mfu_ratio": Metric("MFU of the steps", "ratio", "more"),
    "joules_per_token": Metric("Joules per token", "J", "less"),
}


class MetricRatio(Row):
    """One figure of the runs b against the runs a."""

    metric: str
    title: str
    unit: str
    better: Literal["less", "more"]
    a: list[float]
    """One value a run."""
    b: list[float]
    mean_a: float | None
    """Geometric means, because the ratio is of those."""
    mean_b: float | None
    ratio: RatioEstimate | None
    adjusted_p_value: float | None
    """By Holm, over all figures that could be judged."""
    primary: bool
    """Whether the verdict is about this figure: then its own p-value decides, because it was chosen beforehand."""
    significant: bool | None
    """Whether the p-value that decides is below 0.05; None where nothing could be judged."""
    reason: str
    """Why there is no ratio or no judgement."""


def metric_ratios(a: Side, b: Side, *, refusal: str = "", money_refusal: str = "") -> list[MetricRatio]:
    """Compare every figure that a side has. `refusal`: why nothing is compared, though each side is shown."""
    rows = []
    for name, metric in METRICS.items():
        row = _ratio(name, a, b, money_refusal if name.startswith("usd") and not refusal else refusal)
        if metric.always or row.a or row.b:
            rows.append(row)
    judged = [(row.metric, row.ratio.p_value) for row in rows if row.ratio and row.ratio.p_value is not None]
    adjusted = dict(zip((name for name, _ in judged), holm([p for _, p in judged]), strict=True))
    costs = {row.metric: row.ratio for row in rows if row.metric in {USD, SECONDS}}
    primary = USD if costs[USD] is not None else SECONDS
    return [_judged(row, adjusted.get(row.metric), primary=row.metric == primary) for row in rows]


def _judged(row: MetricRatio, adjusted: float | None, *, primary: bool) -> MetricRatio:
    decides = row.ratio.p_value if primary and row.ratio else adjusted
    significant = None if decides is None else decides < SIGNIFICANCE
    return row.model_copy(update={"adjusted_p_value": adjusted, "primary": primary, "significant": significant})


def _ratio(name: str, a: Side, b: Side, refusal: str) -> MetricRatio:
    values = [_values(name, a), _values(name, b)]
    ratio, reason = None, refusal
    published = "published" in {a.source, b.source}
    if not all(values):
        reason = reason or "not every side has this figure"
    elif any(len(found) < len(side.runs) for found, side in zip(values, (a, b), strict=True)):
        reason = reason or "not every run has this figure"
    elif not all(math.isfinite(v) and v > 0 for v in (*values[0], *values[1])):
        reason = reason or "a figure of 0 has no ratio to anything"
    elif not reason:
        ratio = compare_runs(values[0], values[1])
        reason = ratio.reason
        if ratio.high is not None and not math.isfinite(ratio.high):
            ratio, reason = None, "so few runs that differ so much bound nothing"
    if published and ratio is not None:
        ratio = ratio.model_copy(update={"low": None, "high": None, "p_value": None})
        reason = "a published figure has no interval"
    metric = METRICS[name]
    return MetricRatio(
        metric=name, title=metric.title, unit=metric.unit, better=metric.better, a=values[0], b=values[1],
        mean_a=geometric_mean(values[0]), mean_b=geometric_mean(values[1]), ratio=ratio, adjusted_p_value=None,
        primary=False, significant=None, reason=reason,
    )  # fmt: skip


def _values(name: str, side: Side) -> list[float]:
    if side.published is not None:
        figure = side.published.figures.get(name)
        return [] if figure is None else [figure]
    return [value for run in side.runs if (value := run.figures.get(name)) is not None]


def geometric_mean(values: Sequence[float]) -> float | None:
    """Of positive values; None without any, or where one is not above 0."""
    if not values or min(values) <= 0:
        return None
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))
