"""How a run went: its device-seconds over time, its steps, its engine iterations on the roofline, its experts' load.

A summary of the facts, of bounded size whatever the length of the run, so that a page can draw it without reading them.
What was not told is empty.

Worked example: of one device, a start-up of 30 s and a step phase of 90 s, all of it computing, in four bins of 30 s:

>>> from tokenstone.wire import DevicePhases, Phase
>>> phases = [Phase(kind="startup", start_seconds=0, duration_seconds=30, activity_seconds={"startup": 30}),
...           Phase(kind="step", start_seconds=30, duration_seconds=90, activity_seconds={"compute": 90}, steps=9)]
>>> spent = _Spent(120, bins=4)
>>> for phase in phases:
...     for name, seconds in phase.activity_seconds.items():
...         spent.add(name, phase.start_seconds, phase.duration_seconds, seconds)
>>> spent.by_name
{'startup': [30.0, 0.0, 0.0, 0.0], 'compute': [0.0, 30.0, 30.0, 30.0]}
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tokenstone.wire import Facts, InferenceFacts, Iterations, StepColumns, TrainingFacts

BINS = 60
"""Intervals of equal length into which a run is cut."""
POINTS = 120
"""Most points of a curve over steps."""
_PER_DECADE = 6
"""How finely iterations are told apart on the roofline."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Timeline(_Row):
    """Device-seconds of each interval by what they were spent on.

    The names are the ledger's, with `compute` not split: how much of it was ideal is known of the whole alone.
    """

    interval_seconds: float
    device_seconds: dict[str, list[float]]


class StepCurves(_Row):
    """Means over `steps_a_point` counted steps in a row."""

    steps_a_point: int
    seconds: list[float]
    loss: list[float]
    gradient_norm: list[float]


class IterationGroup(_Row):
    """Engine iterations of about the same intensity and speed, per device."""

    is_prefill: bool
    """Whether most of its FLOPs were prefill."""
    flops_per_byte: float
    flops_per_second: float
    """While the model ran."""
    model_seconds: float


class ExpertLayer(_Row):
    """Load of one layer's experts over the run, as a ratio to their mean."""

    least_ratio: float
    most_ratio: float
    without_tokens: int


class Course(_Row):
    """How a run went."""

    timeline: Timeline | None
    steps: StepCurves | None = None
    iterations: list[IterationGroup] = []
    experts: list[ExpertLayer] = []


def course(facts: Facts) -> Course:
    """Summarise the facts of a run."""
    experts = [_layer(loads) for loads in facts.expert_load or [] if sum(loads)]
    if isinstance(facts, TrainingFacts):
        curves = _curves(facts.steps) if facts.steps and facts.steps.duration_seconds else None
        return Course(timeline=_training_timeline(facts), steps=curves, experts=experts)
    return Course(timeline=_serving_timeline(facts), iterations=_groups(facts.iterations), experts=experts)


class _Spent:
    """Adds up intervals into bins."""

    def __init__(self, seconds: float, bins: int = BINS) -> None:
        self.length, self.bins = max(seconds, 1e-9) / bins, bins
        self.by_name: dict[str, list[float]] = {}

    def add(self, name: str, start: float, duration: float, amount: float) -> None:
        """Spread `amount` evenly over the interval; what lies beyond the end goes to the last bin."""
        column = self.by_name.setdefault(name, [0.0] * self.bins)
        first, last = self._bin(start), self._bin(start + duration)
        if first == last or duration <= 0:
            column[first] += amount
            return
        rate = amount / duration
        for k in range(first, last + 1):
            begin = max(start, k * self.length)
            end = min(start + duration, (k + 1) * self.length) if k < last else start + duration
            column[k] += rate * max(0.0, end - begin)

    def _bin(self, second: float) -> int:
        return int(min(self.bins - 1, second / self.length))

    def timeline(self) -> Timeline:
        """What was added."""
        return Timeline(interval_seconds=self.length, device_seconds={k: v for k, v in self.by_name.items() if any(v)})


def _training_timeline(facts: TrainingFacts) -> Timeline | None:
    spent = _Spent(facts.allocated_seconds)
    for device in facts.devices:
        for phase in device.phases:
            for name, seconds in phase.activity_seconds.items():
                if seconds:
                    spent.add(name, phase.start_seconds, phase.duration_seconds, seconds)
    return _with_idle(spent, len(facts.devices)) if spent.by_name else None


def _serving_timeline(facts: InferenceFacts) -> Timeline | None:
    if not facts.iterations_known:
        return None
    spent, rows = _Spent(facts.allocated_seconds), facts.iterations
    spent.add("startup", 0.0, facts.startup_seconds, facts.startup_seconds)
    names = ("compute", "exposed_communication", "host_overhead")
    columns = (rows.model_seconds, rows.communication_seconds, rows.host_seconds)
    for start, duration, *parts in zip(rows.start_seconds, rows.duration_seconds, *columns, strict=True):
        for name, seconds in zip(names, parts, strict=True):
            if seconds:
                spent.add(name, start, duration, seconds)
    for column in spent.by_name.values():
        column[:] = [seconds * facts.device_count for seconds in column]
    return _with_idle(spent, facts.device_count)


def _with_idle(spent: _Spent, devices: int) -> Timeline:
    """Call idle what nobody accounts for."""
    held = spent.length * devices
    used = [math.fsum(column[k] for column in spent.by_name.values()) for k in range(spent.bins)]
    idle = spent.by_name.setdefault("idle", [0.0] * spent.bins)
    for k, seconds in enumerate(used):
        if held - seconds > 1e-9 * held:
            idle[k] += held - seconds
    return spent.timeline()


def _curves(steps: StepColumns) -> StepCurves:
    every = math.ceil(len(steps.duration_seconds) / POINTS)
    return StepCurves(
        steps_a_point=every,
        seconds=_means(steps.duration_seconds, every),
        loss=_means(steps.loss, every),
        gradient_norm=_means(steps.gradient_norm, every),
    )


def _means(values: Sequence[float], every: int) -> list[float]:
    parts = [values[k : k + every] for k in range(0, len(values), every)]
    return [math.fsum(part) / len(part) for part in parts]


def _groups(rows: Iterations) -> list[IterationGroup]:
    """Iterations by kind and by place on the roofline; the point of a group is that of its sums."""
    sums: dict[tuple[bool, int, int], list[float]] = {}
    for flops, moved, prefill, seconds in zip(
        rows.flops, rows.bytes, rows.prefill_flops, rows.model_seconds, strict=True
    ):
        if flops > 0 and moved > 0 and seconds > 0:
            place = (prefill > flops / 2, _step(flops / moved), _step(flops / seconds))
            group = sums.setdefault(place, [0.0, 0.0, 0.0])
            for k, value in enumerate((flops, moved, seconds)):
                group[k] += value
    return [
        IterationGroup(is_prefill=place[0], flops_per_byte=f / b, flops_per_second=f / s, model_seconds=s)
        for place, (f, b, s) in sorted(sums.items())
    ]


def _step(value: float) -> int:
    return round(math.log10(value) * _PER_DECADE)


def _layer(loads: Sequence[int]) -> ExpertLayer:
    mean = sum(loads) / len(loads)
    return ExpertLayer(
        least_ratio=min(loads) / mean, most_ratio=max(loads) / mean, without_tokens=sum(load == 0 for load in loads)
    )
