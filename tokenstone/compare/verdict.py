"""The answer in one sentence. About one figure that was chosen beforehand: what a token costs."""

from __future__ import annotations

from typing import Literal

from tokenstone.compare.figures import SIGNIFICANCE, USD, MetricRatio
from tokenstone.compare.ratio import INSUFFICIENT
from tokenstone.compare.side import Row, Side
from tokenstone.score.bottleneck import money, seconds

Answer = Literal["b_cheaper", "b_dearer", "no_difference", "insufficient_data", "refused", "published"]


class Verdict(Row):
    """What came out."""

    answer: Answer
    sentence: str
    metric: str | None
    """The figure that it is about."""
    change_ratio: float | None
    """B over A, less 1: -0.2 is a fifth cheaper."""
    low: float | None
    high: float | None
    p_value: float | None
    """Of this figure alone: it was chosen before anything was looked at."""


def make_verdict(a: Side, b: Side, cost: MetricRatio, refusal: str) -> Verdict:
    """Judge the cost per token of b against a."""
    if cost.ratio is None:
        why = refusal or cost.reason or "no figure of cost on both sides"
        return Verdict(
            answer="refused", sentence=f"No verdict: {why}.", metric=None, change_ratio=None, low=None, high=None,
            p_value=None,
        )  # fmt: skip
    ratio = cost.ratio
    change, low, high = ratio.ratio - 1, _less_one(ratio.low), _less_one(ratio.high)
    told = f"A token on {b.title} costs {_change(change)} than on {a.title}{_amounts(cost, a)}"
    if cost.metric != USD:
        told = f"A token on {b.title} takes {_change(change)} device time than on {a.title}{_amounts(cost, a)}"
    answer: Answer
    if a.published or b.published:
        answer, sentence = "published", f"No verdict, because {refusal}. {told}, by the figures alone."
    elif ratio.p_value is None:
        answer = "insufficient_data"
        few = f"{ratio.runs_a} and {ratio.runs_b} runs are too few to tell it from chance"
        sentence = f"{told}, but {few}: {INSUFFICIENT}."
    elif ratio.p_value >= SIGNIFICANCE:
        answer = "no_difference"
        sentence = f"No difference shown: {told[0].lower()}{told[1:]}, which could be chance{_interval(low, high)}."
    else:
        answer = "b_cheaper" if change < 0 else "b_dearer"
        sentence = f"{told}{_interval(low, high)}."
    return Verdict(
        answer=answer, sentence=sentence, metric=cost.metric, change_ratio=change, low=low, high=high,
        p_value=ratio.p_value,
    )  # fmt: skip


def _change(change: float) -> str:
    return f"{abs(change):.1%} {'more' if change > 0 else 'less'}"


def _amounts(cost: MetricRatio, a: Side) -> str:
    if cost.mean_a is None or cost.mean_b is None:
        return ""
    if cost.metric == USD:
        sign = "" if a.currency == "USD" else f" {a.currency}"
        texts = [money(v) if not sign else f"{v:,.4g}{sign}" for v in (cost.mean_b, cost.mean_a)]
        return f" ({texts[0]} against {texts[1]} per million tokens)"
    return f" ({seconds(cost.mean_b)} against {seconds(cost.mean_a)} device-seconds per million tokens)"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" (95 % interval of the change: {low:+.1%} to {high:+.1%})"


def _less_one(value: float | None) -> float | None:
    return None if value is None else value - 1
