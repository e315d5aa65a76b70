"""What one rank counts in each step, made of the spans of its log, and kept until the facts are gathered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, get_args

from torch import Tensor

from tokenstone.ledger import Interval, exclusive_seconds
from tokenstone.wire import Part
from workloads.training.parallel.communication import Span, Total, totals

PARTS: tuple[Part, ...] = get_args(Part)

_PART_OF: dict[str, Part] = {
    "update": "optimizer",
    "counts": "dispatch",
    "receive_activations": "pipeline_wait",
    "receive_gradients": "pipeline_wait",
}
"""The part of each span that is not called like its part."""
_ACTIONS = frozenset({"forward", "backward", "backward_input", "backward_weight"})


class StepRecord(NamedTuple):
    """What a trainer says of one step."""

    loss: Tensor
    load_LE: Tensor
    """Tokens that each expert got from all ranks, in each expert layer of this rank."""
    gradient_norm: Tensor
    spans: list[Span]
    """In the order in which they ended; exchanges divided into `load_imbalance` and the rest."""
    began_seconds: float
    """When the step's computation began, on the scale of the spans."""
    recomputed_flops: float


@dataclass(frozen=True, slots=True)
class Waited:
    """All waits of one kind."""

    count: int = 0
    seconds: float = 0.0
    sent_bytes: int = 0
    buffer_bytes: int = 0
    transfer_seconds: float = 0.0

    def __add__(self, other: Waited) -> Waited:
        return Waited(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[Any, ...]:
        return self.count, self.seconds, self.sent_bytes, self.buffer_bytes, self.transfer_seconds


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One step on one rank, in numbers that can be written down."""

    duration_seconds: float
    loss: float
    gradient_norm: float
    max_violation: float
    parts: dict[Part, float]
    collectives: dict[str, Waited]
    schedule_seconds: float
    busy_seconds: float
    recomputed_flops: float

    def as_json(self) -> dict[str, Any]:
        """For a journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> StepFigures:
        """What `as_json` gave. Raises TypeError or KeyError for anything else."""
        collectives = {name: Waited(**waited) for name, waited in read["collectives"].items()}
        return cls(**(read | {"collectives": collectives}))


def step_figures(record: StepRecord, *, duration_seconds: float, data_seconds: float) -> StepFigures:
    """Make the figures of a step. Reads the loss and the load, which waits for the device."""
    parts: dict[Part, float] = {"data": data_seconds}
    for span in record.spans:
        part = part_of(span)
        parts[part] = parts.get(part, 0.0) + span.seconds
    actions = [span for span in record.spans if span.name in _ACTIONS or (span.stream and span.activity != "compute")]
    end = max((span.end for span in actions), default=record.began_seconds)
    return StepFigures(
        duration_seconds=duration_seconds,
        loss=float(record.loss),
        gradient_norm=float(record.gradient_norm),
        max_violation=largest_violation(record.load_LE),
        parts=parts,
        collectives=_collectives(record.spans),
        schedule_seconds=end - record.began_seconds,
        busy_seconds=_union_seconds(actions, record.began_seconds, end),
        recomputed_flops=record.recomputed_flops,
    )


def part_of(span: Span) -> Part:
    """The part of a step that a span belongs to."""
    if span.name in PARTS:
        return span.name
    return _PART_OF.get(span.name, "other_work" if span.activity == "compute" else "other_communication")


def largest_violation(load_LE: Tensor) -> float:
    """MaxVio of the worst layer: (largest load - mean) / mean (arXiv 2408.15664); 0 where no layer has experts."""
    if not load_LE.numel():
        return 0.0
    load_LE = load_LE.double()
    return float((load_LE.amax(dim=1) / load_LE.mean(dim=1).clamp(min=1e-9)).max() - 1.0)


def _collectives(spans: Sequence[Span]) -> dict[str, Waited]:
    waits = [span for span in spans if span.activity != "compute"]
    late = totals(span for span in waits if span.activity == "load_imbalance")
    waited: dict[str, Waited] = {}
    for name, total in totals(span for span in waits if span.activity != "load_imbalance").items():
        others = late.get(name, Total(0, 0.0, 0)).seconds
        waited[name] = Waited(total.count, total.seconds + others, total.sent_bytes, total.buffer_bytes, total.seconds)
    return waited


def _union_seconds(spans: Iterable[Span], start: float, end: float) -> float:
    """Seconds that at least one of the spans covers."""
    intervals = [Interval(span.start, span.end, "compute") for span in spans]
    return exclusive_seconds(intervals, start, end, remainder="idle").get("compute", 0.0)


@dataclass(slots=True)
class Tally:
    """All steps of a training on one rank, by number; warm-up included."""

    warm_up_steps: int
    figures: dict[int, StepFigures] = field(default_factory=dict)
    load_LE: Tensor | None = None
    """Tokens that each expert got in the counted steps."""

    def add(self, step: int, figures: StepFigures, load_LE: Tensor) -> None:
        """Count a step."""
        self.figures[step] = figures
        if step >= self.warm_up_steps:
            self.load_LE = load_LE.clone() if self.load_LE is None else self.load_LE + load_LE

    def counted(self) -> list[StepFigures]:
        """The counted steps, in order."""
        return [self.figures[step] for step in sorted(self.figures) if step >= self.warm_up_steps]
