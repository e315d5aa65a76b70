"""The pipeline schedules by name: which stages a rank holds, in which order it works, and what each demands.

    1F1B             one stage a rank. Bubble (P-1)(F+B).                     Narayanan et al., arXiv 2006.09503
    Interleaved1F1B  stages r and r+P: a smaller bubble, more messages.       arXiv 2104.04473
    ZBVZeroBubble    stages r and 2P-1-r (a V: the loss is on rank 0); weight gradients fill the bubble.
                                                                              arXiv 2401.10241
    DualPipeV        the same V; forward and backward of different micro-batches in pairs, see `dualpipev`.
                                                                              arXiv 2412.19437

P is the number of pipeline ranks, F, B and W the time of a forward, a backward, and its weight part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleDualPipeV,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)

from tokenstone.errors import InvalidValue, UnknownName
from workloads.training.parallel.torch_private import FORWARD, FULL_BACKWARD, Action, PipelineScheduleRuntime

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_BTW, targets_BT) of a micro-batch -> the mean loss of its tokens."""


class OneForwardOneBackward(PipelineScheduleRuntime):
    """1F1B on torch's runtime of actions.

    torch's own Schedule1F1B runs the same order, but it cannot be observed and posts each receive only when it needs
    the data; this one posts them ahead, which is never slower.
    """

    def __init__(self, stages: list[PipelineStage], n_microbatches: int, loss_fn: Loss) -> None:
        super().__init__(stages=stages, n_microbatches=n_microbatches, loss_fn=loss_fn)  # type: ignore[no-untyped-call]
        ranks = stages[0].group_size
        self._prepare_schedule_with_comms({rank: _order_1f1b(rank, ranks, n_microbatches) for rank in range(ranks)})


def _order_1f1b(rank: int, ranks: int, micro_batches: int) -> list[Action | None]:
    """Warm up until the last rank has work, then one forward and one backward in turn, then drain."""
    ahead = min(ranks - 1 - rank, micro_batches)
    forward: list[Action | None] = [Action(rank, FORWARD, index) for index in range(micro_batches)]
    backward: list[Action | None] = [Action(rank, FULL_BACKWARD, index) for index in range(micro_batches)]
    steady = [action for pair in zip(forward[ahead:], backward, strict=False) for action in pair]
    return [*forward[:ahead], *steady, *backward[micro_batches - ahead :]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of schedule."""

    runtime: type[PipelineScheduleRuntime]
    stages_per_rank: int
    v_shaped: bool = False

    def stages_of(self, rank: int, ranks: int) -> list[int]:
        """The stages that pipeline rank `rank` holds, in order."""
        if self.v_shaped:
            return [rank, 2 * ranks - 1 - rank]
        return [rank + turn * ranks for turn in range(self.stages_per_rank)]


SCHEDULES: dict[str, Kind] = {
    "1F1B": Kind(OneForwardOneBackward, 1),
    "Interleaved1F1B": Kind(ScheduleInterleaved1F1B, 2),
    "ZBVZeroBubble": Kind(ScheduleZBVZeroBubble, 2, v_shaped=True),
    "DualPipeV": Kind(ScheduleDualPipeV, 2, v_shaped=True),
}


def schedule_kind(name: str) -> Kind:
    """Return the schedule called `name`; raises UnknownName."""
    try:
        return SCHEDULES[name]
    except KeyError:
        raise UnknownName("pipeline schedule", name, SCHEDULES) from None


def check_schedule(name: str, *, ranks: int, micro_batches: int, batch_sequences: int, layers: int) -> None:
    """Raise InvalidValue, naming the one thing to change, unless `name` can run with these sizes.

    `batch_sequences`: of one data-parallel rank and step. `layers`: of the model.
    """
    kind = schedule_kind(name)
    stages = ranks * kind.stages_per_rank

    def refuse(what: str, hint: str) -> InvalidValue:
        return InvalidValue(what, where=f"pipeline schedule {name}", hint=hint)

    if ranks < 1 or micro_batches < 1:
        raise refuse(f"{micro_batches} micro-batches on {ranks} pipeline ranks", "give 1 or more of each")
    if batch_sequences % micro_batches:
        raise refuse(
            f"{batch_sequences} sequences do not divide into {micro_batches} micro-batches",
            f"use a multiple of {micro_batches} sequences per data-parallel rank",
        )
    if layers < stages:
        raise refuse(f"{layers} layers do not fill {stages} stages", f"use at most {layers} stages, or a deeper model")
    if name == "DualPipeV" and micro_batches < 2 * ranks:
        raise refuse(
            f"{micro_batches} micro-batches do not fill both directions of {ranks} ranks",
            f"use at least {2 * ranks} micro-batches (twice the pipeline ranks)",
        )
    if name == "Interleaved1F1B" and micro_batches % ranks:
        raise refuse(
            f"{micro_batches} micro-batches do not divide into rounds of {ranks}", f"use a multiple of {ranks}"
        )


def check_stages(name: str, stages: Sequence[int], *, rank: int, ranks: int) -> None:
    """Raise InvalidValue unless `stages` are those that pipeline rank `rank` of `ranks` has to hold under `name`."""
    wanted = schedule_kind(name).stages_of(rank, ranks)
    if list(stages) != wanted:
        raise InvalidValue(
            f"rank {rank} of {ranks} holds stages {list(stages)}", where=f"pipeline schedule {name}",
            hint=f"it has to hold exactly {wanted}",
        )  # fmt: skip


def make_schedule(name: str, stages: list[PipelineStage], micro_batches: int, loss: Loss) -> PipelineScheduleRuntime:
    """Build the schedule of this rank; raises as `check_stages` does."""
    rank, ranks = stages[0].group_rank, stages[0].group_size
    check_stages(name, [stage.stage_index for stage in stages], rank=rank, ranks=ranks)
    return schedule_kind(name).runtime(stages=stages, n_microbatches=micro_batches, loss_fn=loss)
