"""A comparison as Markdown: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from api.documents.text import block, bullets, code, figure, page, plain, signed, table, utc
from tokenstone.compare import Comparison, MetricRatio, Side
from tokenstone.compare.curve import ObjectiveCurve
from tokenstone.compare.likeness import FieldDifference


def comparison_markdown(c: Comparison) -> str:
    """Return the document."""
    return page(
        [
            [f"# {plain(c.b.title)} against {plain(c.a.title)}"],
            [f"**{plain(c.verdict.sentence)}**"],
            _facts(c),
            ["## What cannot be said"] if c.missing else [],
            bullets(c.missing),
            *_differences("What differs in the work", c.spec_differences),
            ["## Figures"],
            _metrics(c),
            *_itemised(c),
            *_curves(c.curves),
            *_differences("What differs around the work", c.environment_differences),
            ["## The sides"],
            _sides(c),
            *_published(c),
            ["## How to read it"],
            bullets([*c.notes, *_floors(c)]),
            ["## How to do it again"] if c.reproduce else [],
            block(c.reproduce) if c.reproduce else [],
        ]
    )


def _facts(c: Comparison) -> list[str]:
    lines = []
    if c.created_unix_seconds is not None:
        lines.append(f"- Made {utc(c.created_unix_seconds)}")
    lines.append(f"- Spec: {code(c.spec_id)}, the same on both sides" if c.spec_id else "- Not like with like")
    if c.break_even is not None:
        e = c.break_even
        span = "" if e.low is None or e.high is None else f" (95 % interval ${figure(e.low)} to ${figure(e.high)})"
        now = "" if e.present_usd_per_device_hour is None else f"; it is ${figure(e.present_usd_per_device_hour)}"
        lines.append(f"- Break-even: a device-hour of B at ${figure(e.usd_per_device_hour)}{span}{now}")
    else:
        lines.append(f"- Break-even: not known, {plain(c.break_even_reason)}")
    a, b = c.tokens_per_dollar["a"], c.tokens_per_dollar["b"]
    lines.append(f"- Tokens per dollar: A {figure(a)}, B {figure(b)}")
    return lines


def _metrics(c: Comparison) -> list[str]:
    rows = [[plain(m.title), figure(m.mean_a), figure(m.mean_b), *_ratio(m)] for m in c.metrics]
    return table(["", "A", "B", "B / A", "95 % interval", "p (Holm)", "judged"], rows)


def _ratio(m: MetricRatio) -> list[str]:
    ratio = m.ratio
    if ratio is None:
        return ["", "", "", plain(m.reason)]
    interval = "" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    p = "" if m.adjusted_p_value is None else f"{m.adjusted_p_value:.3g}"
    judged = plain(m.reason) if m.significant is None else "differs" if m.significant else "could be chance"
    return [f"{ratio.ratio:.3f}", interval, p, judged + (" (the verdict)" if m.primary else "")]


def _itemised(c: Comparison) -> list[list[str]]:
    title = ["## The difference, itemised"]
    if c.itemised is None:
        return [title, [f"None: {plain(c.itemised_reason)}."]]
    split = c.itemised.total.time_effect is not None
    unit = f"{c.itemised.currency or 'device-seconds'} per million tokens"
    rows = [
        [plain(line.title), figure(line.a), figure(line.b), signed(line.difference),
         *([signed(line.time_effect or 0.0), signed(line.price_effect or 0.0)] if split else [])]
        for line in [*c.itemised.lines, c.itemised.total]
        if line.a or line.b
    ]  # fmt: skip
    said = f"In {unit}; above 0, B spends more. Means over runs are arithmetic here, because only those add up."
    if c.itemised_reason:
        said += f" {c.itemised_reason[:1].upper()}{c.itemised_reason[1:]}."
    heads = ["", "A", "B", "B - A", *(["of it by time", "by price"] if split else [])]
    return [title, [plain(said)], table(heads, rows)]


def _curves(curves: Sequence[ObjectiveCurve]) -> list[list[str]]:
    parts: list[list[str]] = []
    for quantity in dict.fromkeys(curve.quantity for curve in curves):
        of = [curve for curve in curves if curve.quantity == quantity]
        money = all(p.usd_per_million_tokens is not None or p.device_seconds_per_million_tokens is None
                    for curve in of for p in curve.points)  # fmt: skip
        unit = "$" if money else "device-seconds"
        rows = []
        for points in zip(*(curve.points for curve in of), strict=True):
            costs = [p.usd_per_million_tokens if money else p.device_seconds_per_million_tokens for p in points]
            cells = ["none within" if v is None else f"{figure(v)} ({p.within_ratio:.0%})"
                     for v, p in zip(costs, points, strict=True)]  # fmt: skip
            rows.append([f"{points[0].limit_seconds:g} s", *cells])
        parts += [
            [f"## Cost of output tokens against the limit on {quantity.upper()}"],
            [f"{unit} per million output tokens of requests within the limit, and their share of all output tokens."],
            table(["limit", *(curve.side for curve in of)], rows, numbers_from=0),
        ]
    return parts


def _differences(title: str, found: Sequence[FieldDifference]) -> list[list[str]]:
    if not found:
        return []
    rows = [[plain(d.field), plain(", ".join(d.a)), plain(", ".join(d.b))] for d in found]
    return [[f"## {title}"], table(["field", "A", "B"], rows, numbers_from=3)]


def _sides(c: Comparison) -> list[str]:
    rows = [_side("A", c.a), _side("B", c.b)]
    return table(["", "what", "cluster", "runs", "spec", "price of a device-hour", "validity"], rows, numbers_from=7)


def _side(name: str, side: Side) -> list[str]:
    codes = sorted({code for run in side.runs for code in run.validity})
    price = "none" if side.usd_per_device_hour is None else f"{figure(side.usd_per_device_hour)} {side.currency}"
    runs = ", ".join(run.run_id for run in side.runs) or side.source
    specs = ", ".join(side.spec_ids) or "unknown"
    return [name, *(plain(text) for text in (side.title, side.cluster, runs, specs, price, ", ".join(codes)))]


def _published(c: Comparison) -> list[list[str]]:
    parts = []
    for name, side in (("A", c.a), ("B", c.b)):
        if side.published is not None:
            p = side.published
            derived = [f"{metric}: {how}" for metric, how in p.derivations.items()]
            parts.append([f"{name} is **published**, not measured here: {plain(p.source)}, {plain(p.date)}. "
                          f"Price: {plain(p.price_note)}."])  # fmt: skip
            parts.append(bullets(derived))
    return parts


def _floors(c: Comparison) -> list[str]:
    floors = []
    for floor in c.noise_floor:
        if floor.ratio is None:
            floors.append(f"noise floor of {floor.side}: {floor.reason}")
        else:
            floors.append(
                f"noise floor of {floor.side}: two groups of its own runs differ by up to {floor.ratio - 1:.1%} in "
                f"95 of 100 cases (from {floor.runs} runs: {floor.method})"
            )
    return floors
