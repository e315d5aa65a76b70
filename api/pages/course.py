"""Charts of how a run went: its ledger over time, its steps, its iterations on the roofline, its experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from api.pages.axis import Axis, Tick, linear_axis
from api.pages.format import count, duration, percent
from api.pages.palette import CATEGORIES, Category
from api.pages.roofline import Limit, Line, Reached, RooflineChart, roofline_chart
from tokenstone.course import ExpertLayer, StepCurves, Timeline
from tokenstone.report import Section


@dataclass(frozen=True, slots=True)
class Column:
    """One interval of one category, in percent of the plot, y downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class TimelineChart:
    """Device-seconds of each interval, stacked."""

    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    layers: list[tuple[Category, list[Column]]]


@dataclass(frozen=True, slots=True)
class CurveChart:
    """One curve of straight pieces."""

    title: str
    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    pieces: list[Line]
    x_name: str


@dataclass(frozen=True, slots=True)
class ExpertChart:
    """For each layer a line from its emptiest expert to its fullest."""

    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mean: float
    layers: list[tuple[Line, str]]


@dataclass(frozen=True, slots=True)
class CoursePage:
    """The charts of a run. None is what the run did not tell; `absences` says what that is."""

    timeline: TimelineChart | None
    curves: list[CurveChart]
    roofline: RooflineChart | None
    roofline_note: str
    experts: ExpertChart | None


def course_page(section: Section) -> CoursePage:
    """Return the charts of one run."""
    course = section.evaluation.course
    roofline, note = _roofline(section)
    return CoursePage(
        timeline=_timeline(course.timeline) if course and course.timeline else None,
        curves=_curves(course.steps) if course and course.steps else [],
        roofline=roofline,
        roofline_note=note,
        experts=_experts(course.experts) if course and course.experts else None,
    )


def _timeline(timeline: Timeline) -> TimelineChart:
    order = [name for name in CATEGORIES if name in timeline.device_seconds]
    bins = len(timeline.device_seconds[order[0]])
    totals = [math.fsum(timeline.device_seconds[name][k] for name in order) for k in range(bins)]
    tallest, base = max(totals), [0.0] * bins
    layers: list[tuple[Category, list[Column]]] = []
    for name in order:
        columns = []
        for k, seconds in enumerate(timeline.device_seconds[name]):
            height = 100 * seconds / tallest
            base[k] += height
            if height > 0.05:
                columns.append(Column(100 * k / bins, 100 - base[k], 100 / bins, height))
        layers.append((CATEGORIES[name], columns))
    x, y = linear_axis(timeline.interval_seconds * bins), linear_axis(1.0)
    shares = {name: math.fsum(timeline.device_seconds[name]) / math.fsum(totals) for name in order}
    told = ", ".join(f"{CATEGORIES[name].title} {percent(share)}" for name, share in shares.items())
    return TimelineChart(
        f"{count(bins)} intervals of {duration(timeline.interval_seconds)}, all together: {told}",
        x.ticks(lambda seconds: duration(seconds) if seconds else "0"),
        _downwards(y, lambda ratio: f"{ratio:.0%}"),
        layers,
    )


def _curves(steps: StepCurves) -> list[CurveChart]:
    charts = []
    every = steps.steps_a_point
    for title, values, write in (
        ("Loss", steps.loss, lambda value: f"{value:.3g}"),
        ("Seconds a step", steps.seconds, lambda value: duration(value) if value else "0"),
    ):
        finite = [value for value in values if math.isfinite(value)]
        if len(finite) > 1:
            charts.append(_curve(title, finite, every, write))
    return charts


def _curve(title: str, values: Sequence[float], every: int, write: Callable[[float], str]) -> CurveChart:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    x = linear_axis(len(values) * every, every)
    y = linear_axis(high + room, max(0.0, low - room) if low >= 0 else low - room)
    points = [(x.at((k + 1) * every), 100 - y.at(value)) for k, value in enumerate(values)]
    return CurveChart(
        title=title,
        description=f"from {write(values[0])} to {write(values[-1])}, between {write(low)} and {write(high)}",
        x_ticks=x.ticks(lambda step: f"{step:,.0f}"),
        y_ticks=_downwards(y, write),
        pieces=[Line(*one, *other) for one, other in pairwise(points)],
        x_name="step" if every == 1 else f"step, means of {count(every)}",
    )


def _roofline(section: Section) -> tuple[RooflineChart | None, str]:
    """The limits of the run's devices, and what it reached beneath them."""
    e = section.evaluation
    if e.roofline is None:
        return None, ""
    peak, memory = e.roofline["peak_flops_per_second"], e.roofline["memory_bytes_per_second"]
    limit = Limit(
        f"{e.roofline['hardware']}, {e.roofline['dtype']}", float(peak or 0), float(memory) if memory else None
    )
    if section.kind == "training":
        reached = []
        if e.mfu_ratio:
            reached.append(Reached("in the steps", None, e.mfu_ratio * limit.flops_per_second))
        if e.score:
            reached.append(
                Reached("over all that was held", None, e.score / 100 * limit.flops_per_second, look="second")
            )
        note = "Model FLOPs a device, as lines: a training does not tell the memory traffic of its kernels; "
        return roofline_chart(
            [limit], reached
        ), note + "`tokenstone trace` reads that of single kernels from a profile."
    groups = e.course.iterations if e.course else []
    total = math.fsum(group.model_seconds for group in groups)
    points = [
        Reached("mostly prefill" if g.is_prefill else "mostly decode", g.flops_per_byte, g.flops_per_second,
                g.model_seconds / total, "second" if g.is_prefill else "first")
        for g in groups
    ]  # fmt: skip
    note = "Engine iterations, those of about the same place together; the area of a mark is its share of the time."
    return roofline_chart([limit], points), note if points else "The engine did not tell its iterations."


def _experts(layers: Sequence[ExpertLayer]) -> ExpertChart:
    y = linear_axis(max(layer.most_ratio for layer in layers) * 1.05)
    every = 100 / len(layers)
    lines = []
    for k, layer in enumerate(layers):
        x = (k + 0.5) * every
        hint = f"layer {k + 1}: from {layer.least_ratio:.2f} to {layer.most_ratio:.2f} times the mean"
        if layer.without_tokens:
            hint += f", {count(layer.without_tokens)} without a token"
        lines.append((Line(x, 100 - y.at(layer.least_ratio), x, 100 - y.at(layer.most_ratio)), hint))
    worst = max(range(len(layers)), key=lambda k: layers[k].most_ratio)
    step = max(1, math.ceil(len(layers) / 12))
    return ExpertChart(
        description=f"{count(len(layers))} layers with experts; the least even is {lines[worst][1]}",
        x_ticks=[Tick((k + 0.5) * every, str(k + 1)) for k in range(0, len(layers), step)],
        y_ticks=_downwards(y, lambda ratio: f"{ratio:.2g} ×"),
        mean=100 - y.at(1.0),
        layers=lines,
    )


def _downwards(axis: Axis, write: Callable[[float], str]) -> list[Tick]:
    return [Tick(100 - tick.at, tick.label) for tick in axis.ticks(write)]
