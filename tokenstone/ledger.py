"""The ledger: how every device-second of a run was spent. It balances exactly.

For N devices held for T seconds, A = N · T device-seconds. At each instant a device is in exactly one category;
of those that apply, the first of the list wins (compute hides the communication behind it).

`compute` is then split: `ideal` is what the work takes at the hardware's limit, `recompute` what was done twice on
purpose, `kernel_inefficiency` the rest. The residual, A - sum, is zero but for rounding; a run whose facts leave
more is invalid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.roofline import Roofline
from tokenstone.wire import Activity, InferenceFacts, TrainingFacts

PRIORITY: tuple[Activity, ...] = (
    "compute", "exposed_communication", "pipeline_bubble", "load_imbalance", "input_stall", "checkpoint",
    "host_overhead", "startup", "recovery", "idle",
)  # fmt: skip
"""Activities, the one that wins first."""

TRAINING_CATEGORIES: tuple[str, ...] = ("ideal", "recompute", "kernel_inefficiency", *PRIORITY[1:])
INFERENCE_CATEGORIES: tuple[str, ...] = (
    "ideal", "kernel_inefficiency", "exposed_communication", "host_overhead", "queue_idle", "preemption",
    "slo_miss", "startup",
)  # fmt: skip

TOLERANCE = 1e-6
"""Largest residual, as a share of A, that is rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One activity from `start` to `end`, seconds."""

    start: float
    end: float
    activity: Activity


def exclusive_seconds(
    intervals: Iterable[Interval], start: float, end: float, *, remainder: Activity
) -> dict[Activity, float]:
    """Give each instant from `start` to `end` to one activity; instants that nothing covers are `remainder`.

    Where intervals overlap, the activity that comes first in PRIORITY wins. What lies outside is cut off.

    >>> hidden = [Interval(0, 4, "compute"), Interval(3, 6, "exposed_communication")]
    >>> exclusive_seconds(hidden, 0, 10, remainder="host_overhead")
    {'compute': 4.0, 'exposed_communication': 2.0, 'host_overhead': 4.0}
    """
    edges: list[tuple[float, int, Activity]] = []
    for interval in intervals:
        left, right = max(interval.start, start), min(interval.end, end)
        if left < right:
            edges += [(left, 1, interval.activity), (right, -1, interval.activity)]
    edges.sort(key=lambda edge: edge[0])
    running = dict.fromkeys(PRIORITY, 0)
    seconds: dict[Activity, float] = {}
    position = start
    for instant, step, activity in [*edges, (end, 0, remainder)]:
        if instant > position:
            winner = next((name for name in PRIORITY if running[name]), remainder)
            seconds[winner] = seconds.get(winner, 0.0) + (instant - position)
            position = instant
        running[activity] += step
    return seconds


class Ledger(BaseModel):
    """Device-seconds by category. The categories and the residual add up to `allocated_seconds` exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["training", "inference"]
    allocated_seconds: float
    """A: devices x wall time for which they were held."""
    seconds: dict[str, float]
    residual_seconds: float
    input_seconds: dict[str, float] | None = None
    """Inference: the part of each category that prefill caused; the rest is decode's."""
    prefill_ratio: float | None = None
    """Inference: measured prefill time / (prefill + decode) time; splits what neither caused."""
    reasons: list[str] = []
    """Why the ledger is not valid, or why `compute` could not be split."""

    @property
    def balanced(self) -> bool:
        """Whether the residual is no more than rounding."""
        return abs(self.residual_seconds) <= TOLERANCE * self.allocated_seconds

    @property
    def ideal_seconds(self) -> float | None:
        """Device-seconds at the hardware's limit; None where the limit is unknown or was exceeded."""
        return self.seconds.get("ideal")


def training_ledger(facts: TrainingFacts, model_flops: float, roofline: Roofline | None) -> Ledger:
    """Ledger of a training run.

    `model_flops`: FLOPs that the counted tokens need, all devices together. Time between phases is idle.
    """
    totals = dict.fromkeys(PRIORITY, 0.0)
    for device in facts.devices:
        position = 0.0
        for phase in sorted(device.phases, key=lambda phase: phase.start_seconds):
            totals["idle"] += max(0.0, phase.start_seconds - position)
            position = max(position, phase.start_seconds + phase.duration_seconds)
            for activity, seconds in phase.activity_seconds.items():
                totals[activity] += seconds
        totals["idle"] += max(0.0, facts.allocated_seconds - position)
    compute = totals.pop("compute")
    split, reasons = _split_compute(compute, model_flops, facts.recomputed_flops, roofline)
    allocated = facts.allocated_seconds * len(facts.devices)
    return _closed("training", allocated, split | {str(name): seconds for name, seconds in totals.items()}, reasons)


def _split_compute(
    compute: float, model_flops: float, recomputed_flops: float, roofline: Roofline | None
) -> tuple[dict[str, float], list[str]]:
    if roofline is None:
        return {"compute": compute}, ["unknown_peak"]
    ideal = model_flops / roofline.peak_flops_per_second
    recompute = recomputed_flops / roofline.peak_flops_per_second
    rest = compute - ideal - recompute
    if rest < -TOLERANCE * max(compute, ideal):
        return {"compute": compute}, ["peak_exceeded"]
    return {"ideal": ideal, "recompute": recompute, "kernel_inefficiency": max(0.0, rest)}, []


def inference_ledger(facts: InferenceFacts, missed: Sequence[bool], roofline: Roofline | None) -> Ledger:
    """Ledger of a serving run. `missed[i]` says whether request i missed the objective.

    Of an iteration's time, the share of the tokens that belong to requests that missed is `slo_miss`. Of the
    rest, model time divides into `preemption` (tokens computed again), `ideal` = max(FLOPs/peak, bytes/bandwidth)
    and `kernel_inefficiency`. Between iterations a device waits for requests (`queue_idle`) or for the host.
    """
    if not facts.iterations_known:
        return _ledger_of_requests(facts, missed)
    devices = facts.device_count
    parts = _Parts()
    for iteration in _iterations(facts):
        parts.add(iteration, missed, roofline)
    gaps = _gaps(facts)
    with_requests = _overlap(gaps, _merged(_presence(facts)))
    shared = {
        "startup": facts.startup_seconds,
        "queue_idle": max(0.0, math.fsum(end - start for start, end in gaps) - with_requests),
        "host_overhead": with_requests,
    }
    reasons = [] if roofline is not None and roofline.memory_bytes_per_second is not None else ["unknown_peak"]
    if parts.exceeds_limit(TOLERANCE * facts.allocated_seconds):
        reasons = ["peak_exceeded"]
    total, prefill = parts.totals(split_model=not reasons)
    prefill_time, all_time = math.fsum(prefill.values()), math.fsum(total.values())
    ratio = prefill_time / all_time if all_time > 0 else None
    for name, seconds in shared.items():
        total[name] = total.get(name, 0.0) + seconds
        prefill[name] = prefill.get(name, 0.0) + seconds * (ratio or 0.0)
    return _closed(
        "inference", facts.allocated_seconds * devices,
        {name: seconds * devices for name, seconds in total.items()}, reasons,
        input_seconds={name: seconds * devices for name, seconds in prefill.items()}, prefill_ratio=ratio,
    )  # fmt: skip


def _ledger_of_requests(facts: InferenceFacts, missed: Sequence[bool]) -> Ledger:
    """Ledger of an endpoint whose iterations are unknown: busy while a request was there, and `compute` stays whole.

    `slo_miss` is the share of the busy time that the tokens of missed requests are of all tokens. What was busy is
    divided between input and output as requests spent their own time: up to the first token, and after it.
    """
    requests, devices = facts.requests, facts.device_count
    present = math.fsum(end - start for start, end in _merged(_presence(facts)))
    served = facts.allocated_seconds - facts.startup_seconds
    busy = min(present, served)
    weights = [read + written for read, written in zip(requests.input_tokens, requests.output_tokens, strict=True)]
    all_tokens = sum(weights)
    share = sum(w for w, late in zip(weights, missed, strict=True) if late) / all_tokens if all_tokens else 0.0
    seconds = {
        "compute": busy * (1.0 - share),
        "queue_idle": served - busy,
        "slo_miss": busy * share,
        "startup": facts.startup_seconds,
    }
    reading = writing = 0.0
    times = zip(requests.arrival_seconds, requests.first_token_seconds, requests.end_seconds, strict=True)
    for arrival, first, end in times:
        if first is not None and end is not None:
            reading += first - arrival
            writing += end - first
    ratio = reading / (reading + writing) if reading + writing > 0 else None
    return _closed(
        "inference", facts.allocated_seconds * devices,
        {name: value * devices for name, value in seconds.items()}, ["no_iterations"],
        input_seconds={name: value * devices * (ratio or 0.0) for name, value in seconds.items()}, prefill_ratio=ratio,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Iteration:
    duration: float
    model: float
    communication: float
    host: float
    flops: float
    bytes: float
    prefill_flops: float
    recomputed_tokens: int
    requests: Sequence[int]
    tokens: Sequence[int]


def _iterations(facts: InferenceFacts) -> Iterable[_Iteration]:
    c = facts.iterations
    return map(_Iteration, c.duration_seconds, c.model_seconds, c.communication_seconds, c.host_seconds, c.flops,
               c.bytes, c.prefill_flops, c.recomputed_tokens, c.requests, c.request_tokens)  # fmt: skip


class _Parts:
    """Sums over iterations: all of them, and the part that prefill caused."""

    def __init__(self) -> None:
        self._all: dict[str, float] = {}
        self._prefill: dict[str, float] = {}

    def add(self, it: _Iteration, missed: Sequence[bool], roofline: Roofline | None) -> None:
        tokens = sum(it.tokens)
        missed_tokens = sum(n for request, n in zip(it.requests, it.tokens, strict=True) if missed[request])
        met = 1.0 - (missed_tokens / tokens if tokens else 0.0)
        kept = 1.0 - (min(it.recomputed_tokens, tokens) / tokens if tokens else 0.0)
        ideal = 0.0
        if roofline is not None and roofline.memory_bytes_per_second is not None:
            ideal = max(it.flops / roofline.peak_flops_per_second, it.bytes / roofline.memory_bytes_per_second)
        parts = {
            "ideal": ideal * met * kept,
            "kernel_inefficiency": (it.model - ideal) * met * kept,
            "preemption": it.model * met * (1.0 - kept),
            "exposed_communication": it.communication * met,
            "host_overhead": it.host * met,
            "slo_miss": (it.model + it.communication + it.host) * (1.0 - met),
        }
        share = it.prefill_flops / it.flops if it.flops > 0 else 0.0
        for name, seconds in parts.items():
            self._all[name] = self._all.get(name, 0.0) + seconds
            self._prefill[name] = self._prefill.get(name, 0.0) + seconds * share

    def exceeds_limit(self, tolerance: float) -> bool:
        """Whether prefill or decode was faster than the hardware's stated limit, which is then wrong."""
        prefill = self._prefill.get("kernel_inefficiency", 0.0)
        decode = self._all.get("kernel_inefficiency", 0.0) - prefill
        return min(prefill, decode) < -tolerance

    def totals(self, *, split_model: bool) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds by category: of all, and of prefill. Unsplit, ideal and the rest stay one `compute`."""
        if split_model:
            return dict(self._all), dict(self._prefill)
        return _joined(self._all), _joined(self._prefill)


def _joined(sums: dict[str, float]) -> dict[str, float]:
    rest = {name: value for name, value in sums.items() if name not in {"ideal", "kernel_inefficiency"}}
    return {"compute": sums.get("ideal", 0.0) + sums.get("kernel_inefficiency", 0.0), **rest}


def _gaps(facts: InferenceFacts) -> list[tuple[float, float]]:
    """Intervals after start-up in which no iteration ran."""
    starts, durations = facts.iterations.start_seconds, facts.iterations.duration_seconds
    gaps, position = [], facts.startup_seconds
    for start, duration in sorted(zip(starts, durations, strict=True)):
        if start > position:
            gaps.append((position, start))
        position = max(position, start + duration)
    if facts.allocated_seconds > position:
        gaps.append((position, facts.allocated_seconds))
    return gaps


def _presence(facts: InferenceFacts) -> Iterable[tuple[float, float]]:
    """From arrival to end of each request; one that never ended was there until the run ended."""
    requests = facts.requests
    for arrival, end in zip(requests.arrival_seconds, requests.end_seconds, strict=True):
        yield arrival, facts.allocated_seconds if end is None else end


def _merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of intervals, as disjoint ones in order."""
    union: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def _overlap(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """Seconds that both cover; each is disjoint and in order."""
    i = j = 0
    seconds = 0.0
    while i < len(one) and j < len(other):
        seconds += max(0.0, min(one[i][1], other[j][1]) - max(one[i][0], other[j][0]))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return seconds


def _closed(
    kind: Literal["training", "inference"],
    allocated: float,
    seconds: dict[str, float],
    reasons: list[str],
    *,
    input_seconds: dict[str, float] | None = None,
    prefill_ratio: float | None = None,
) -> Ledger:
    """Put the categories in order, take the residual, and say so if it is more than rounding."""
    order = ("compute", *(TRAINING_CATEGORIES if kind == "training" else INFERENCE_CATEGORIES))
    residual = allocated - math.fsum(seconds.values())
    if abs(residual) > TOLERANCE * allocated:
        reasons = [*reasons, "ledger_residual"]
    return Ledger(
        kind=kind,
        allocated_seconds=allocated,
        seconds={name: seconds[name] for name in order if name in seconds},
        residual_seconds=residual,
        input_seconds=input_seconds and {name: input_seconds[name] for name in order if name in input_seconds},
        prefill_ratio=prefill_ratio,
        reasons=reasons,
    )
