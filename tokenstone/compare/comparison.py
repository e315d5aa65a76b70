"""Two sides compared: the verdict first, and then everything it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tokenstone.compare.curve import ObjectiveCurve, objective_curves
from tokenstone.compare.figures import SECONDS, USD, MetricRatio, metric_ratios
from tokenstone.compare.itemise import Itemised, itemise
from tokenstone.compare.likeness import (
    FieldDifference,
    environment_differences,
    refusal,
    spec_differences,
    unknown_specs,
)
from tokenstone.compare.noise import NoiseFloor, side_floor
from tokenstone.compare.side import Row, Side
from tokenstone.compare.verdict import Verdict, make_verdict
from tokenstone.errors import InvalidValue
from tokenstone.wire import InferenceFacts

SCHEMA_VERSION = 1


class BreakEven(Row):
    """The price of a device-hour of B at which a token costs the same on both sides."""

    usd_per_device_hour: float
    low: float | None
    """Ends of the 95 % interval, from that of the ratio of device-seconds."""
    high: float | None
    present_usd_per_device_hour: float | None
    """What B is priced at now."""


class Comparison(Row):
    """Runs of B against runs of A. Ratios are b over a. What is None has its reason beside it or in `missing`."""

    schema_version: int = SCHEMA_VERSION
    created_unix_seconds: float | None = None
    verdict: Verdict
    like_with_like: bool
    spec_id: str | None
    """The one spec of all runs; None where they are of several, or a side is published."""
    cluster_a: str
    cluster_b: str
    a: Side
    b: Side
    spec_differences: list[FieldDifference]
    environment_differences: list[FieldDifference]
    metrics: list[MetricRatio]
    noise_floor: list[NoiseFloor]
    """Of each side that ran, of its cost per token."""
    itemised: Itemised | None
    itemised_reason: str
    break_even: BreakEven | None
    break_even_reason: str
    tokens_per_dollar: dict[Literal["a", "b"], float | None]
    curves: list[ObjectiveCurve]
    """Cost of output tokens against limits on TPOT and TTFT; empty for training, and without facts of requests."""
    missing: list[str]
    """What cannot be said, and what to do about it."""
    notes: list[str]
    """What the statistics are, and what they do not cover."""
    reproduce: list[str]
    """The commands that give this comparison, and its runs, again."""


def compare_sides(
    a: Side,
    b: Side,
    *,
    facts: Mapping[str, InferenceFacts] | None = None,
    output_seconds: Mapping[str, float] | None = None,
    created_unix_seconds: float | None = None,
    reproduce: list[str] | None = None,
) -> Comparison:
    """Compare b with a. `facts` and device-seconds of output by run id give the curves.

    Sides of different work are both shown, without ratios and without a verdict. Raises InvalidValue for a run that
    stands on both sides.
    """
    both = {run.run_id for run in a.runs} & {run.run_id for run in b.runs}
    if both:
        raise InvalidValue(f"run {min(both)} is on both sides", where="query.b", hint="name each run once")
    if a.title == b.title:
        a, b = (side.model_copy(update={"title": f"{side.title} ({name})"}) for name, side in (("A", a), ("B", b)))
    why_not = refusal(a, b)
    published = bool(a.published or b.published)
    no_money = "" if a.currency == b.currency else f"different currencies: {a.currency} and {b.currency}"
    # A published figure may stand beside a measured one as a plain quotient; other unlike work may not.
    same_kind = published and why_not.endswith("not known")
    metrics = metric_ratios(a, b, refusal="" if same_kind else why_not, money_refusal=no_money)
    found = {metric.metric: metric for metric in metrics}
    money = not no_money and found[USD].reason != "not every side has this figure" and bool(found[USD].a)
    itemised, itemised_reason = _itemised(a, b, money=money, why_not=why_not)
    break_even, break_even_reason = _break_even(a, b, found[SECONDS], no_money)
    cost = next(metric for metric in metrics if metric.primary)
    return Comparison(
        created_unix_seconds=created_unix_seconds,
        verdict=make_verdict(a, b, cost, why_not),
        like_with_like=not why_not,
        spec_id=a.spec_ids[0] if not why_not else None,
        cluster_a=a.cluster,
        cluster_b=b.cluster,
        a=a,
        b=b,
        spec_differences=spec_differences(a, b),
        environment_differences=environment_differences(a, b),
        metrics=metrics,
        noise_floor=[
            side_floor(name, values, len(cost.a), len(cost.b))
            for name, side, values in (("A", a, cost.a), ("B", b, cost.b))
            if side.published is None and len(side.spec_ids) == 1
        ],
        itemised=itemised,
        itemised_reason=itemised_reason,
        break_even=break_even,
        break_even_reason=break_even_reason,
        tokens_per_dollar={
            "a": _tokens_per_dollar(a, found[USD].mean_a), "b": _tokens_per_dollar(b, found[USD].mean_b)
        },
        curves=objective_curves([("A", a), ("B", b)], facts or {}, output_seconds or {}),
        missing=_missing(a, b, no_money),
        notes=_notes(a, b),
        reproduce=reproduce or [],
    )  # fmt: skip


def _itemised(a: Side, b: Side, *, money: bool, why_not: str) -> tuple[Itemised | None, str]:
    if a.published or b.published:
        return None, "a published result has no ledger"
    if why_not:
        return None, f"not itemised, because {why_not}"
    found = itemise(a, b, money=True) if money else None
    if found is not None:
        return found, ""
    found = itemise(a, b, money=False)
    if found is None:
        return None, "a run has no bill"
    return found, "in device-seconds, because there is not one price in one currency on each side"


def _break_even(a: Side, b: Side, seconds: MetricRatio, no_money: str) -> tuple[BreakEven | None, str]:
    """p_a · (device-seconds of A / device-seconds of B), because then p_b · s_b = p_a · s_a."""
    if no_money:
        return None, no_money
    if a.usd_per_device_hour is None:
        return None, "side A has no price, or several"
    if seconds.ratio is None:
        return None, seconds.reason or "no ratio of device-seconds"
    ratio, price = seconds.ratio, a.usd_per_device_hour
    return BreakEven(
        usd_per_device_hour=price / ratio.ratio,
        low=price / ratio.high if ratio.high else None,
        high=price / ratio.low if ratio.low else None,
        present_usd_per_device_hour=b.usd_per_device_hour,
    ), ""


def _tokens_per_dollar(side: Side, usd: float | None) -> float | None:
    return 1e6 / usd if usd and side.currency == "USD" else None


def _missing(a: Side, b: Side, no_money: str) -> list[str]:
    found = []
    if no_money:
        found.append(f"{no_money}: costs are not compared, device-seconds are")
    for name, side in (("A", a), ("B", b)):
        found += [f"side {name}: {text}" for text in side.missing]
        found += [f"side {name}: run {out.run_id} is left out: {out.reason}" for out in side.left_out]
        if len(side.runs) == 1:
            found.append(f"side {name}: one run says nothing of how much runs vary; repeat it")
    if unknown_specs(a, b):
        found.append("which fields of the specs differ: a result file does not hold its spec")
    return found


def _notes(a: Side, b: Side) -> list[str]:
    notes = [
        "the unit of replication is the run; ratios are b over a, of geometric means, with 95 % intervals (Welch)",
        "the verdict is about one figure chosen beforehand, the cost per token; the others count after "
        "Holm's adjustment over all figures",
    ]
    if a.published or b.published:
        notes = ["a published figure is quoted, not measured here: no interval, no verdict"]
        notes += [note for side in (a, b) if side.published for note in side.published.notes]
    elif a.cluster != b.cluster:
        notes.append(
            "the sides are different clusters: the interval covers the luck of runs, not that of another day or node"
        )
    return notes
