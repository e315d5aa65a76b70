"""Two sides against each other: how they are picked, and what comes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from api.pages.environment import Site, address, render
from api.pages.format import count, decimals, fixed, money
from api.store.run_list import RunGroup, RunRow
from api.views import Comparison, MetricRatio
from tokenstone.errors import TokenstoneError

_METRICS = {
    "score": ("Score, of 100", "more is better"),
    "tokens_per_second": ("Tokens per second", "more is better"),
    "device_seconds_per_million_tokens": ("Device-seconds per million tokens", "less is better"),
    "usd_per_million_tokens": ("$ per million tokens", "less is better"),
}
ENOUGH_RUNS = 4
"""Runs a side below which nothing is called a difference."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What the form holds."""

    group_a: str = ""
    group_b: str = ""
    runs_a: Sequence[str] = ()
    runs_b: Sequence[str] = ()
    spec_id: str = ""


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One figure on both sides."""

    title: str
    better: str
    a: str
    b: str
    ratio: str
    interval: str
    verdict: str
    is_difference: bool


def group_key(group: RunGroup) -> str:
    """What stands for a group in an address."""
    return f"{group.spec_id}@{group.cluster}"


def compare_html(
    site: Site | None,
    groups: Sequence[RunGroup],
    picked: Picked,
    *,
    runs: Sequence[RunRow] = (),
    comparison: Comparison | None = None,
    problem: TokenstoneError | None = None,
) -> str:
    """Return the page: the form, the runs of a spec to choose from, the comparison or why there is none.

    Without a `site` it is a file that holds the comparison alone.
    """
    clusters = Counter(group.spec_id for group in groups)
    groups = sorted(groups, key=lambda group: (-min(2, clusters[group.spec_id]), group.spec_id))
    return render(
        "compare.html.j2",
        site=site,
        groups=[(group_key(g), f"{g.cluster}: {g.preset} ({g.kind}, {g.spec_id}), {_runs(g.runs)}") for g in groups],
        specs=_specs(groups),
        picked=picked,
        rows=runs,
        comparison=comparison,
        lines=[_line(m) for m in comparison.metrics] if comparison else [],
        answer=_answer(comparison) if comparison else "",
        problem=problem,
        swap=address("/compare", group_a=picked.group_b, group_b=picked.group_a, a=picked.runs_b, b=picked.runs_a),
        data=address("/v1/comparisons", a=picked.runs_a, b=picked.runs_b),
        file=address("/v1/reports/comparison/html", a=picked.runs_a, b=picked.runs_b),
        enough=ENOUGH_RUNS,
    )


def _specs(groups: Sequence[RunGroup]) -> list[tuple[str, str]]:
    """Specs with two evaluated runs at least, and what each is called."""
    runs: dict[str, int] = {}
    for group in groups:
        runs[group.spec_id] = runs.get(group.spec_id, 0) + group.runs
    named = {group.spec_id: f"{group.preset} ({group.kind}, {group.spec_id})" for group in groups}
    return [(spec_id, f"{named[spec_id]}, {_runs(number)}") for spec_id, number in runs.items() if number > 1]


def _runs(number: int) -> str:
    return f"{count(number)} run{'s' if number != 1 else ''}"


def _line(m: MetricRatio) -> MetricLine:
    title, better = _METRICS.get(m.metric, (m.metric.replace("_", " "), ""))
    ratio, is_money = m.ratio, m.metric.startswith("usd")
    interval = ""
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    is_difference = m.adjusted_p_value is not None and m.adjusted_p_value < 0.05
    verdict = m.reason
    if not verdict and m.adjusted_p_value is not None:
        chance = "<0.001" if m.adjusted_p_value < 0.001 else f"{m.adjusted_p_value:.3f}"
        verdict = f"{'a difference' if is_difference else 'could be chance'} (p {chance})"
    return MetricLine(title, better, _mean(m.a, is_money), _mean(m.b, is_money),
                      "" if ratio is None else f"{ratio.ratio:.3f}", interval, verdict, is_difference)  # fmt: skip


def _mean(values: Sequence[float], is_money: bool) -> str:
    """Geometric mean, as the ratios are of."""
    if not values or min(values) <= 0:
        return ""
    mean = math.exp(math.fsum(math.log(v) for v in values) / len(values))
    return money(mean) if is_money else fixed(mean, decimals(mean, digits=4))


def _answer(c: Comparison) -> str:
    """The comparison in one sentence, by money where there is a price."""
    found = {m.metric: m for m in c.metrics}
    cost = next((found[name] for name in ("usd_per_million_tokens", "device_seconds_per_million_tokens")
                 if name in found and found[name].ratio is not None), None)  # fmt: skip
    if cost is None or cost.ratio is None:
        return "Nothing can be said of what the tokens cost: no side has a bill."
    what = "costs" if cost.metric.startswith("usd") else "takes, in device-seconds,"
    change = cost.ratio.ratio - 1
    told = f"A token on B {what} {abs(change):.1%} {'more' if change > 0 else 'less'} than on A"
    if cost.reason:
        return f"{told}, but that is not enough to tell a difference: {cost.reason}."
    if cost.adjusted_p_value is not None and cost.adjusted_p_value < 0.05:
        low, high = (cost.ratio.low or 1) - 1, (cost.ratio.high or 1) - 1
        return f"{told} (95 % interval of the change: {low:+.1%} to {high:+.1%})."
    return f"{told}, which could be chance."
