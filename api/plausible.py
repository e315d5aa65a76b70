"""What a batch says must be possible: known names, times of this age, values that fit their metric's unit.

A figure in the wrong unit is worse than none: it is stored, averaged and believed. The bounds are wide; they tell
percent from ratio and milliseconds from seconds, not good from bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from api.settings import Settings
from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.metric import REGISTRY, Kind, Metric
from tokenstone.wire import Facts, WindowBatch

LONGEST_WINDOW_SECONDS = 3600.0
SECONDS_PER_DAY = 86_400.0
_ABOVE = 1e-9
_LIST = "GET /v1/metrics lists them"


class _Bounds(NamedTuple):
    low: float
    high: float


# Sources round, and an average can come out a little over the whole: 5 % is let pass.
_BY_UNIT = {"ratio": _Bounds(0.0, 1.05), "celsius": _Bounds(-100.0, 200.0)}
_ANY = _Bounds(0.0, math.inf)
# A clock may be behind as well as ahead.
_BY_NAME = {"tokenstone_clock_offset_seconds": _Bounds(-math.inf, math.inf)}


def check_batch(batch: WindowBatch, settings: Settings, *, now: float) -> None:
    """Raise UnknownName or InvalidValue, naming the field, unless all of the batch is possible."""
    metrics = [_metric(batch, number) for number in range(len(batch.series))]
    for number, absence in enumerate(batch.absences):
        if absence.metric not in REGISTRY:
            raise UnknownName("metric", absence.metric, REGISTRY, where=f"body.absences.{number}.metric", hint=_LIST)
    if batch.series_index:
        _check_times(batch, settings, now)
        _check_values(batch, metrics)


def check_started(facts: Facts, settings: Settings, *, now: float) -> None:
    """Raise InvalidValue for facts of a run that began in another age, or has not ended yet."""
    started = facts.started_unix_seconds
    _check_age(started, settings, now, where="body.started_unix_seconds")
    if started + facts.allocated_seconds > now + settings.max_ahead_seconds:
        raise InvalidValue(
            "the run would end in the future", where="body.allocated_seconds", hint="is it in milliseconds?"
        )


def _metric(batch: WindowBatch, number: int) -> Metric:
    series = batch.series[number]
    metric = REGISTRY.get(series.metric)
    if metric is None:
        where = f"body.series.{number}.metric"
        raise UnknownName("metric", series.metric, REGISTRY, where=where, hint=_LIST)
    if set(series.labels) != set(metric.labels):
        raise InvalidValue(
            f"{series.metric} has the labels {sorted(metric.labels)}, not {sorted(series.labels)}",
            where=f"body.series.{number}.labels",
            hint=_LIST,
        )
    return metric


def _check_times(batch: WindowBatch, settings: Settings, now: float) -> None:
    starts, durations = batch.start_unix_seconds, batch.duration_seconds
    for extreme in (min(starts), max(starts)):
        _check_age(extreme, settings, now, where=f"body.start_unix_seconds.{starts.index(extreme)}")
    longest, shortest = max(durations), min(durations)
    if longest > LONGEST_WINDOW_SECONDS:
        raise InvalidValue(
            f"a window of {longest:g} s; the longest is {LONGEST_WINDOW_SECONDS:g} s",
            where=f"body.duration_seconds.{durations.index(longest)}",
            hint="durations are in seconds",
        )
    if shortest <= 0:
        raise InvalidValue("a window without duration", where=f"body.duration_seconds.{durations.index(shortest)}")


def _check_age(moment: float, settings: Settings, now: float, *, where: str) -> None:
    if moment > now + settings.max_ahead_seconds:
        raise InvalidValue(
            f"{moment - now:,.0f} s in the future", where=where, hint="set the sender's clock; times are in seconds"
        )
    if moment < now - settings.max_age_days * SECONDS_PER_DAY:
        raise InvalidValue(f"more than {settings.max_age_days:g} days ago", where=where, hint="set the sender's clock")


def _check_values(batch: WindowBatch, metrics: Sequence[Metric]) -> None:
    gauges = [metric.kind is Kind.GAUGE for metric in metrics]
    columns = (batch.mean, batch.minimum, batch.maximum, batch.delta)
    for number, (index, mean, least, most, delta) in enumerate(zip(batch.series_index, *columns, strict=True)):
        if gauges[index]:
            if mean is None or least is None or most is None or delta is not None:
                raise _of_kind(metrics[index], number)
            low, high = _BY_NAME.get(metrics[index].name) or _BY_UNIT.get(metrics[index].unit, _ANY)
            if not (low <= least and most <= high):
                raise _out_of_bounds(metrics[index], number, least if least < low else most, low, high)
            slack = _ABOVE * max(abs(least), abs(most))
            if not least - slack <= mean <= most + slack:
                raise InvalidValue("the mean is not between minimum and maximum", where=f"body.mean.{number}")
        elif mean is not None or least is not None or most is not None or (delta is not None and delta < 0):
            raise _of_kind(metrics[index], number)


def _out_of_bounds(metric: Metric, number: int, value: float, low: float, high: float) -> InvalidValue:
    column = "minimum" if value < low else "maximum"
    bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {1 if metric.unit == 'ratio' else high:g}"
    return InvalidValue(
        f"{metric.name} is in {metric.unit}, {bounds}, and cannot be {value:g}",
        where=f"body.{column}.{number}",
        hint="is it in percent?" if metric.unit == "ratio" else "check the unit",
    )


def _of_kind(metric: Metric, number: int) -> InvalidValue:
    if metric.kind is Kind.GAUGE:
        what, column = "is a gauge: a window of it has mean, minimum and maximum, and no delta", "mean"
    else:
        what, column = "is a counter: a window of it has a delta of at least 0 and nothing else", "delta"
    return InvalidValue(f"{metric.name} {what}", where=f"body.{column}.{number}", hint=_LIST)
