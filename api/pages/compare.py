"""Two sides against each other, ready to be shown: the verdict, its figures, the difference itemised, the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from api.pages.axis import Axis, Tick, log_axis
from api.pages.environment import Site, address, render
from api.pages.format import count, decimals, fixed, money, money_decimals, percent, utc
from api.pages.palette import CATEGORIES, Category
from api.pages.roofline import Line
from api.store.run_list import RunGroup, RunRow
from tokenstone.compare import Comparison, MetricRatio
from tokenstone.compare.curve import ObjectiveCurve
from tokenstone.compare.figures import SECONDS, USD
from tokenstone.compare.itemise import Itemised, ItemisedLine
from tokenstone.compare.published import PREFIX, published_results
from tokenstone.errors import TokenstoneError

FORMS = (("pdf", "PDF"), ("markdown", "Markdown"), ("csv", "CSV"))
_LOOKS = {"A": "first", "B": "second"}
_QUANTITIES = {"tpot": "time per output token", "ttft": "time to first token"}


@dataclass(frozen=True, slots=True)
class Picked:
    """What the form holds."""

    group_a: str = ""
    group_b: str = ""
    runs_a: Sequence[str] = ()
    runs_b: Sequence[str] = ()
    spec_id: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio on an axis, in percent of its width; the ends are None where there is no interval."""

    at: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One figure on both sides."""

    title: str
    better: str
    a: str
    b: str
    ratio: str
    interval: str
    drawn: Interval | None
    verdict: str
    is_difference: bool


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One ledger category: both sides, the difference, and a bar from the middle to the left or to the right."""

    title: str
    category: Category | None
    a: str
    b: str
    difference: str
    time_effect: str
    price_effect: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference itemised, in `unit` per million tokens."""

    unit: str
    lines: list[DifferenceLine]
    total: DifferenceLine
    is_split: bool
    """Whether it divides into what time and what the price has done."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost under a limit on one latency, both sides."""

    title: str
    unit: str
    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    pieces: list[Line]
    dots: list[tuple[float, float, str, str]]
    """x, y, look and what it says."""
    sides: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """A comparison, ready to be shown."""

    metrics: list[MetricLine]
    axis_low: str
    axis_high: str
    one: float
    """Where a ratio of 1 lies on the axis, in percent."""
    cost_a: str
    cost_b: str
    cost_unit: str
    change: str
    change_note: str
    break_even: str
    break_even_note: str
    per_dollar: list[tuple[str, str]]
    floors: list[tuple[str, str]]
    difference: Difference | None
    curves: list[Curve]


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
    ordered = sorted(groups, key=lambda g: (-min(2, sum(o.spec_id == g.spec_id for o in groups)), g.spec_id))
    return render(
        "compare.html.j2",
        site=site,
        groups=[(group_key(g), f"{g.cluster}: {g.preset} ({g.kind}, {g.spec_id}), {_runs(g.runs)}") for g in ordered],
        published=[(PREFIX + key, result.title) for key, result in published_results().items()],
        specs=_specs(ordered),
        picked=picked,
        rows=runs,
        comparison=comparison,
        c=comparison_page(comparison) if comparison else None,
        created=utc(comparison.created_unix_seconds) if comparison and comparison.created_unix_seconds else "",
        problem=problem,
        swap=address("/compare", group_a=picked.group_b, group_b=picked.group_a, a=picked.runs_b, b=picked.runs_a),
        data=address("/v1/comparisons", a=picked.runs_a, b=picked.runs_b),
        file=address("/v1/reports/comparison/html", a=picked.runs_a, b=picked.runs_b),
        forms=[
            (address(f"/v1/reports/comparison/{form}", a=picked.runs_a, b=picked.runs_b), title)
            for form, title in FORMS
        ],
    )


def comparison_page(c: Comparison) -> ComparisonPage:
    """Return a comparison as it is shown."""
    axis = _ratio_axis(c.metrics)
    cost = _cost_metric(c)
    return ComparisonPage(
        metrics=[_metric(m, axis) for m in c.metrics],
        axis_low=_ratio_text(axis.low),
        axis_high=_ratio_text(axis.high),
        one=axis.at(1.0),
        cost_a=_amount(cost.mean_a, cost.unit) if cost else "",
        cost_b=_amount(cost.mean_b, cost.unit) if cost else "",
        cost_unit="per million tokens" if cost and cost.unit == "$" else "device-seconds per million tokens",
        change=_change(c.verdict.change_ratio),
        change_note=_interval_note(c),
        break_even="" if c.break_even is None else money(c.break_even.usd_per_device_hour),
        break_even_note=_break_even_note(c),
        per_dollar=[(name.upper(), _per_dollar(value)) for name, value in c.tokens_per_dollar.items() if value],
        floors=[(f.side, "" if f.ratio is None else f"±{f.ratio - 1:.1%}".replace("%", " %")) for f in c.noise_floor],
        difference=_difference(c.itemised) if c.itemised else None,
        curves=_curves(c.curves),
    )


def _cost_metric(c: Comparison) -> MetricRatio | None:
    """The figure that the verdict is about; without a verdict, the cost that a side has."""
    found = {m.metric: m for m in c.metrics}
    if c.verdict.metric is not None:
        return found[c.verdict.metric]
    costs = [found[name] for name in (USD, SECONDS) if name in found]
    return next((m for m in costs if m.mean_a is not None or m.mean_b is not None), None)


def _change(ratio: float | None) -> str:
    """Write B over A less 1; what is several times as much as a factor."""
    if ratio is None:
        return ""
    return f"{1 + ratio:,.1f} ×" if ratio > 2 else f"{ratio:+.1%}".replace("%", " %").replace("-", "−")


def _specs(groups: Sequence[RunGroup]) -> list[tuple[str, str]]:
    """Specs with two evaluated runs at least, and what each is called."""
    runs: dict[str, int] = {}
    for group in groups:
        runs[group.spec_id] = runs.get(group.spec_id, 0) + group.runs
    named = {group.spec_id: f"{group.preset} ({group.kind}, {group.spec_id})" for group in groups}
    return [(spec_id, f"{named[spec_id]}, {_runs(number)}") for spec_id, number in runs.items() if number > 1]


def _runs(number: int) -> str:
    return f"{count(number)} run{'s' if number != 1 else ''}"


def _ratio_axis(metrics: Sequence[MetricRatio]) -> Axis:
    """A logarithmic axis with 1 in its middle that holds every interval, up to a factor of 100."""
    ends = [end for m in metrics if m.ratio for end in (m.ratio.ratio, m.ratio.low, m.ratio.high) if end]
    furthest = min(100.0, max([1.02, *(max(end, 1 / end) for end in ends)]) ** 1.1)
    return Axis(1 / furthest, furthest, is_log=True)


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.3f}" if abs(ratio - 1) < 0.1 else f"{ratio:.2f}"


def _metric(m: MetricRatio, axis: Axis) -> MetricLine:
    ratio, drawn, interval, verdict = m.ratio, None, "", m.reason
    if ratio is not None:
        ends = (ratio.low, ratio.high)
        drawn = Interval(axis.at(ratio.ratio), *(None if end is None else axis.at(end) for end in ends))
        if ratio.low is not None and ratio.high is not None:
            interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    if m.adjusted_p_value is not None:
        chance = "<0.001" if m.adjusted_p_value < 0.001 else f"{m.adjusted_p_value:.3f}"
        verdict = f"{'a difference' if m.significant else 'could be chance'} (p {chance})"
    return MetricLine(
        title=f"{m.title}, {m.unit}" if m.unit not in m.title and m.unit not in {"ratio", "1/s"} else m.title,
        better=f"{m.better} is better", a=_amount(m.mean_a, m.unit), b=_amount(m.mean_b, m.unit),
        ratio="" if ratio is None else f"{ratio.ratio:.3f}", interval=interval, drawn=drawn, verdict=verdict,
        is_difference=bool(m.significant),
    )  # fmt: skip


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "$":
        return money(value)
    return percent(value) if unit == "ratio" else fixed(value, decimals(value))


def _interval_note(c: Comparison) -> str:
    low, high = c.verdict.low, c.verdict.high
    if low is None or high is None:
        return next((m.reason for m in c.metrics if m.metric == c.verdict.metric), "")
    return f"95 % interval by run: {low:+.1%} to {high:+.1%}".replace("%", " %").replace("95  %", "95 %")


def _break_even_note(c: Comparison) -> str:
    found = c.break_even
    if found is None:
        return c.break_even_reason
    told = []
    if found.low is not None and found.high is not None:
        told.append(f"95 % interval {money(found.low)} to {money(found.high)}")
    if found.present_usd_per_device_hour is not None:
        told.append(f"B is priced at {money(found.present_usd_per_device_hour)} now")
    return "; ".join(told)


def _per_dollar(tokens: float) -> str:
    return f"{tokens / 1e6:,.3g} M" if tokens >= 1e6 else count(round(tokens))


def _difference(itemised: Itemised) -> Difference:
    is_money = itemised.unit == "money"
    largest = max((abs(line.difference) for line in (*itemised.lines, itemised.total)), default=0.0) or 1.0
    total = max(itemised.total.a, itemised.total.b)
    places = money_decimals(total) if is_money else decimals(total)
    sign = ("$" if itemised.currency == "USD" else "") if is_money else ""

    def line(one: ItemisedLine) -> DifferenceLine:
        half = 50 * abs(one.difference) / largest
        return DifferenceLine(
            one.title, CATEGORIES.get(one.category), fixed(one.a, places, sign), fixed(one.b, places, sign),
            _signed(one.difference, places, sign), _signed(one.time_effect, places, sign),
            _signed(one.price_effect, places, sign), 50 - half if one.difference < 0 else 50, half,
        )  # fmt: skip

    shown = [one for one in itemised.lines if one.a or one.b]
    unit = (sign or itemised.currency) if is_money else "device-seconds"
    return Difference(unit, [line(one) for one in shown], line(itemised.total), itemised.total.time_effect is not None)


def _signed(value: float | None, places: int, sign: str) -> str:
    """With its sign; a dash for no such effect, 0 for none."""
    if value is None:
        return ""
    text = fixed(abs(value), places, sign)
    if text.strip("$0.") == "":
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def _curves(curves: Sequence[ObjectiveCurve]) -> list[Curve]:
    found = []
    for quantity, title in _QUANTITIES.items():
        mine = [curve for curve in curves if curve.quantity == quantity]
        priced = all(
            p.usd_per_million_tokens is not None
            for curve in mine for p in curve.points if p.device_seconds_per_million_tokens is not None
        )  # fmt: skip
        points = {
            curve.side: [
                (p.limit_seconds, value, p.within_ratio)
                for p in curve.points
                if (value := p.usd_per_million_tokens if priced else p.device_seconds_per_million_tokens) is not None
            ]
            for curve in mine
        }
        if any(points.values()):
            found.append(_curve(title, points, is_money=priced))
    return found


def _curve(title: str, points: dict[str, list[tuple[float, float, float]]], *, is_money: bool) -> Curve:
    every = [point for side in points.values() for point in side]
    x, y = log_axis([p[0] for p in every]), log_axis([p[1] for p in every])
    pieces, dots, told = [], [], []
    for side, mine in points.items():
        look = _LOOKS[side]
        placed = [(x.at(limit), 100 - y.at(cost)) for limit, cost, _ in mine]
        pieces += [Line(*one, *other, look=look) for one, other in pairwise(placed)]
        for (limit, cost, within), place in zip(mine, placed, strict=True):
            dots.append(
                (
                    *place,
                    look,
                    f"{side}: {_cost(cost, is_money)} within {_limit(limit)}, {percent(within)} of its tokens",
                )
            )
        if mine:
            told.append(f"{side} from {_cost(mine[0][1], is_money)} within {_limit(mine[0][0])} "
                        f"to {_cost(mine[-1][1], is_money)} within {_limit(mine[-1][0])}")  # fmt: skip
    return Curve(
        title=f"Cost per million output tokens by the limit on {title}",
        unit="$" if is_money else "device-seconds",
        description="; ".join(told),
        x_ticks=x.ticks(_limit),
        y_ticks=[Tick(100 - t.at, t.label) for t in y.ticks(lambda value: _cost(value, is_money))],
        pieces=pieces,
        dots=dots,
        sides=[(_LOOKS[side], side) for side, mine in points.items() if mine],
    )


def _cost(value: float, is_money: bool) -> str:
    return money(value) if is_money else f"{fixed(value, decimals(value, digits=2))} s"


def _limit(seconds: float) -> str:
    return f"{seconds * 1000:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"
