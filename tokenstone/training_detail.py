"""What is said of a training beside its ledger: where its steps went, what was sent, and how even the experts were."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tokenstone.run import TrainingSpec
from tokenstone.score.bubble import StageTimes, expected_bubble_ratio
from tokenstone.wire import CollectiveTotal, OperandFigures, Part, RankFigures, TrainingFacts


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class CollectiveBandwidth(_Row):
    """All collectives of one kind."""

    name: str
    count: int
    wait_seconds: float
    sent_bytes: int
    algorithm_bytes_per_second: float | None
    """NCCL's algbw: bytes it was called with over its time, without waiting for slower ranks where that is known."""


class TrainingDetail(_Row):
    """None is what was not measured."""

    step_seconds: float | None
    """Mean over the counted steps, as all of `part_seconds`."""
    part_seconds: dict[Part, float]
    ranks: list[RankFigures]
    collectives: list[CollectiveBandwidth]
    bubble_ratio: float | None
    """Measured: 1 - busy / (ranks x schedule). Absent without a pipeline."""
    expected_bubble_ratio: float | None
    """The schedule's closed form (tokenstone.score.bubble), with the measured times where it depends on them."""
    max_violation_batch: float | None
    """MaxVio of each step's batch, the mean over steps (arXiv 2408.15664)."""
    dead_experts: int | None
    """Experts that got no token in any counted step, of all layers."""
    gradient_norm_mean: float | None
    gradient_norm_last: float | None
    fp8: list[OperandFigures]
    peak_memory_bytes: int | None
    """Of the fullest rank."""
    recomputed_flops: float
    restarts: int
    lost_steps: int
    failed_checkpoints: int


def training_detail(spec: TrainingSpec, facts: TrainingFacts) -> TrainingDetail:
    """Everything that follows from the facts alone."""
    steps = facts.steps
    count = len(steps.duration_seconds) if steps else 0
    loads = [load for layer in facts.expert_load for load in layer]
    return TrainingDetail(
        step_seconds=sum(steps.duration_seconds) / count if steps and count else None,
        part_seconds={part: sum(column) / count for part, column in steps.part_seconds.items()} if steps else {},
        ranks=facts.ranks,
        collectives=[_bandwidth(total, len(facts.devices)) for total in facts.communication],
        bubble_ratio=_measured_bubble(facts),
        expected_bubble_ratio=_expected_bubble(spec, facts),
        max_violation_batch=sum(steps.max_violation) / count if steps and count and loads else None,
        dead_experts=sum(load == 0 for load in loads) if loads else None,
        gradient_norm_mean=sum(steps.gradient_norm) / count if steps and count else None,
        gradient_norm_last=steps.gradient_norm[-1] if steps and count else None,
        fp8=facts.fp8,
        peak_memory_bytes=max((rank.peak_memory_bytes for rank in facts.ranks), default=None),
        recomputed_flops=facts.recomputed_flops,
        restarts=facts.restarts,
        lost_steps=facts.lost_steps,
        failed_checkpoints=facts.failed_checkpoints,
    )


def _bandwidth(total: CollectiveTotal, ranks: int) -> CollectiveBandwidth:
    # Bytes and seconds are both sums over the ranks, so that their quotient is that of one rank.
    rate = total.buffer_bytes / total.transfer_seconds if total.buffer_bytes and total.transfer_seconds else None
    return CollectiveBandwidth(
        name=total.name,
        count=total.count // ranks,
        wait_seconds=total.seconds,
        sent_bytes=total.sent_bytes,
        algorithm_bytes_per_second=rate,
    )


def _measured_bubble(facts: TrainingFacts) -> float | None:
    if not facts.schedule_seconds or not facts.ranks:
        return None
    return max(0.0, 1.0 - sum(rank.busy_seconds for rank in facts.ranks) / (facts.schedule_seconds * len(facts.ranks)))


def _expected_bubble(spec: TrainingSpec, facts: TrainingFacts) -> float | None:
    layout = spec.layout
    if layout.pipeline == 1:
        return None
    parts: dict[Part, float] = {}
    for rank in facts.ranks:
        for part, seconds in rank.part_seconds.items():
            parts[part] = parts.get(part, 0.0) + seconds
    forward, whole = parts.get("forward", 0.0), parts.get("backward", 0.0)
    inward, weight = parts.get("backward_input", 0.0), parts.get("backward_weight", 0.0)
    times = None
    if forward and (inward or whole):
        # Of the whole backward passes, the part that the split ones show; a half where none was split.
        share = weight / (inward + weight) if inward else 0.5
        times = StageTimes(forward, inward + whole * (1 - share), weight + whole * share)
    return expected_bubble_ratio(layout.schedule, layout.pipeline, layout.micro_batches, times, overlap=layout.overlap)
