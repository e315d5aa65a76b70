"""What the page says of a training beside its ledger: its step, pipeline, collectives, experts, precision, restarts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

from api.pages.bars import Bar, stacked_bar
from api.pages.figures import Figure
from api.pages.format import count, decimals, duration, fixed, money, percent, si
from api.pages.palette import COMPUTE, HOST, IDEAL, IDLE, KERNEL, OUTSIDE, WAITING, Category, Hue
from tokenstone.report import Section
from tokenstone.run import TrainingSpec
from tokenstone.training_detail import CollectiveBandwidth, TrainingDetail
from tokenstone.wire import Part

_LOOKS: tuple[tuple[Part, Hue, Literal["", "stripes", "dots"], str], ...] = (
    ("forward", IDEAL, "", "forward"),
    ("backward", COMPUTE, "", "backward"),
    ("backward_input", COMPUTE, "stripes", "backward for inputs"),
    ("backward_weight", COMPUTE, "dots", "backward for weights"),
    ("optimizer", OUTSIDE, "", "optimizer"),
    ("dispatch", WAITING, "", "dispatch of tokens"),
    ("combine", WAITING, "stripes", "combination of tokens"),
    ("gradient_reduction", KERNEL, "", "reduction of gradients"),
    ("pipeline_wait", WAITING, "dots", "waiting for the pipeline"),
    ("other_communication", KERNEL, "stripes", "other communication"),
    ("data", HOST, "stripes", "data"),
    ("other_work", IDLE, "", "other work"),
)
_PARTS = {name: Category(name, hue, texture, "", label=label) for name, hue, texture, label in _LOOKS}
"""How the parts of a step are drawn: related ones share a hue, as in the ledger."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One of several ratios that are drawn beneath each other, from 0 to `limit_ratio`."""

    title: str
    note: str
    ratio: float
    text: str


@dataclass(frozen=True, slots=True)
class CollectiveLine:
    """All collectives of one kind."""

    name: str
    count: str
    wait: str
    share: str
    sent: str
    rate: str
    rate_absent_reason: str


@dataclass(frozen=True, slots=True)
class Operand:
    """One kind of FP8 operand."""

    name: str
    amax: str
    underflow: str


@dataclass(frozen=True, slots=True)
class TrainingPage:
    """Everything of it, ready to be shown. What is empty was not measured or does not apply."""

    step: Bar | None
    step_note: str
    step_key: list[Category]
    schedule: str
    bubbles: list[Measure]
    bubble_limit: str
    bubble_absent_reason: str
    collectives: list[CollectiveLine]
    ranks: list[Figure]
    experts: list[Figure]
    gradients: list[Figure]
    operands: list[Operand]
    recovery: list[Figure]


def training_page(section: Section) -> TrainingPage | None:
    """Return what is said of a training; None for a run of another kind, or of an older schema."""
    detail, spec = section.evaluation.training, section.run.spec
    if detail is None or not isinstance(spec, TrainingSpec):
        return None
    layout, bubbles = spec.layout, _bubbles(detail)
    limit = max((b.ratio for b in bubbles), default=0.0) * 1.15 or 1.0
    pipeline = (
        f"{layout.schedule}, {count(layout.pipeline)} pipeline ranks, {count(layout.micro_batches)} micro-batches"
    )
    absent = "the run has no pipeline" if layout.pipeline == 1 else "the run did not tell when its ranks were busy"
    return TrainingPage(
        step=_step(detail),
        step_note=_step_note(detail),
        step_key=[_PARTS[name] for name in _PARTS if detail.part_seconds.get(name)],
        schedule=pipeline if layout.pipeline > 1 else "",
        bubbles=[Measure(b.title, b.note, b.ratio / limit, b.text) for b in bubbles],
        bubble_limit=percent(limit),
        bubble_absent_reason="" if bubbles else absent,
        collectives=[_collective(c, detail, len(section.run.devices)) for c in detail.collectives],
        ranks=_ranks(detail),
        experts=_experts(section, detail),
        gradients=_gradients(detail),
        operands=[
            Operand(o.operand, f"{o.amax:,.3g}", "" if o.underflow_ratio is None else percent(o.underflow_ratio))
            for o in detail.fp8
        ],
        recovery=_recovery(section, detail),
    )


def _step(detail: TrainingDetail) -> Bar | None:
    parts = [(look, detail.part_seconds.get(name, 0.0)) for name, look in _PARTS.items()]
    if detail.step_seconds is None or not any(seconds for _, seconds in parts):
        return None
    return stacked_bar(
        "One step, mean over steps and ranks", duration(detail.step_seconds), parts, kind="Parts of a step"
    )


def _step_note(detail: TrainingDetail) -> str:
    total = sum(detail.part_seconds.values())
    if detail.step_seconds is None or total <= 1.005 * detail.step_seconds:
        return ""
    return (
        f"The parts together are {duration(total)}, more than the step took, because some ran at the same time. "
        "Shares are of the parts together."
    )


def _bubbles(detail: TrainingDetail) -> list[Measure]:
    found = []
    if detail.bubble_ratio is not None:
        found.append(Measure("measured", "share of the schedule in which a rank had nothing to do", detail.bubble_ratio,
                             percent(detail.bubble_ratio)))  # fmt: skip
    if detail.expected_bubble_ratio is not None:
        found.append(Measure("closed form", "of the schedule, with the measured times of its parts",
                             detail.expected_bubble_ratio, percent(detail.expected_bubble_ratio)))  # fmt: skip
    return found


def _collective(c: CollectiveBandwidth, detail: TrainingDetail, ranks: int) -> CollectiveLine:
    waited = sum(one.wait_seconds for one in detail.collectives)
    rate = c.algorithm_bytes_per_second
    return CollectiveLine(
        name=c.name,
        count=count(c.count),
        wait=duration(c.wait_seconds / ranks),
        share=percent(c.wait_seconds / waited) if waited else "",
        sent=si(c.sent_bytes / ranks, "B"),
        rate="" if rate is None else si(rate, "B/s"),
        rate_absent_reason="" if rate is not None else "not told apart from the wait for slower ranks",
    )


def _ranks(detail: TrainingDetail) -> list[Figure]:
    """The spread over ranks, which for thousands of them is all that can be read."""
    if not detail.ranks:
        return []
    waits = sorted(rank.wait_seconds for rank in detail.ranks)
    busy = sorted(rank.busy_seconds for rank in detail.ranks)
    memory = sorted(rank.peak_memory_bytes for rank in detail.ranks)
    return [
        Figure("Waited for other ranks", duration(median(waits)), note=f"median; {_range(waits)}"),
        Figure("Busy in the schedule", duration(median(busy)), note=f"median; {_range(busy)}")
        if busy[-1]
        else Figure("Busy in the schedule", "", absent_reason="the run has no pipeline"),
        Figure("Peak memory", si(memory[-1], "B"), note=f"of the fullest rank; {si(memory[0], 'B')} of the emptiest"),
    ]


def _range(seconds: list[float]) -> str:
    return f"{duration(seconds[0])} to {duration(seconds[-1])}"


def _experts(section: Section, detail: TrainingDetail) -> list[Figure]:
    over_run, dead = section.evaluation.max_violation, detail.dead_experts
    none = "the run reported no expert loads"
    return [
        Figure("Over the run", "", absent_reason=none)
        if over_run is None
        else Figure("Over the run", f"{over_run:,.2f}", "MaxVio", "largest expert load over the mean, less 1"),
        Figure("Each batch", "", absent_reason=none)
        if detail.max_violation_batch is None
        else Figure("Each batch", f"{detail.max_violation_batch:,.2f}", "MaxVio", "mean over the steps"),
        Figure("Experts without a token", "", absent_reason=none)
        if dead is None
        else Figure("Experts without a token", count(dead), note="in any counted step, of all layers"),
    ]


def _gradients(detail: TrainingDetail) -> list[Figure]:
    if detail.gradient_norm_mean is None or detail.gradient_norm_last is None:
        return []
    mean, last = detail.gradient_norm_mean, detail.gradient_norm_last
    return [
        Figure("Gradient norm", f"{mean:,.3g}", note=f"mean over the steps, before clipping; {last:,.3g} in the last")
    ]


def _recovery(section: Section, detail: TrainingDetail) -> list[Figure]:
    e = section.evaluation
    lost = e.ledger.seconds.get("recovery", 0.0)
    lines = {line.category: line for line in e.bill.lines} if e.bill else {}
    usd = lines["recovery"].usd if "recovery" in lines else None
    took = f"{fixed(lost, decimals(lost, digits=3))} device-seconds"
    return [
        Figure("Restarts", count(detail.restarts), note="after a process had died"),
        Figure("Steps done again", count(detail.lost_steps)),
        Figure("Checkpoints that failed", count(detail.failed_checkpoints)),
        Figure("Recovery took", took if lost else "no time", note="" if usd is None or not lost else money(usd)),
    ]
