"""What a pipeline rank does in one slot of its schedule, and what is measured while it does.

torch's runtime walks through a list of actions: F (forward of one micro-batch through one stage), B (its backward),
or I and W (backward to the input, and to the weights later), with sends and receives between them. It lets us
supply the computing actions, which are the same as its own but for the clock: waiting for another stage is
`pipeline_bubble`, the rest computes, and exchanges inside a stage cut themselves out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist

from workloads.training.parallel.communication import CommunicationLog, collective
from workloads.training.parallel.torch_private import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FORWARD,
    FULL_BACKWARD,
    OVERLAP_F_B,
    Action,
    PipelineContext,
    PipelineScheduleRuntime,
    PipelineStageBase,
)


class Actions:
    """The computing actions of one schedule."""

    def __init__(self, schedule: PipelineScheduleRuntime, log: CommunicationLog) -> None:
        self.schedule = schedule
        self.log = log
        self.stages: dict[int, PipelineStageBase] = {stage.stage_index: stage for stage in schedule._stages}

    def register(self) -> None:
        """Have the schedule use these actions in place of torch's."""
        self.schedule.register_custom_function(FORWARD, self.forward)
        self.schedule.register_custom_function(FULL_BACKWARD, self.backward)
        self.schedule.register_custom_function(BACKWARD_INPUT, self.backward)
        self.schedule.register_custom_function(BACKWARD_WEIGHT, self.backward_weight)
        self.schedule.register_custom_function(OVERLAP_F_B, self.forward_and_backward)

    def forward(self, action: Action, ctx: PipelineContext) -> None:
        """F: take the activations that came, apply the stage, hand the result to a next stage on this rank."""
        index, micro_batch = action.stage_index, _micro_batch(action)
        stage = self.stages[index]
        if not stage.is_first and index - 1 not in self.stages:
            self._receive("receive_activations", self.schedule.fwd_recv_ops.pop((index, micro_batch)))
        assert ctx.arg_mbs is not None
        assert ctx.kwarg_mbs is not None
        with self.log.computing("forward"):
            output = stage.forward_one_chunk(
                micro_batch, ctx.arg_mbs[micro_batch], ctx.kwarg_mbs[micro_batch], save_forward_output=False
            )
            self.schedule._maybe_compute_loss(stage, output, ctx.target_mbs, micro_batch)
        if index + 1 in self.stages:
            self.stages[index + 1].set_local_fwd_input(output, micro_batch)

    def backward(self, action: Action, ctx: PipelineContext) -> None:  # noqa: ARG002  torch calls it so
        """B or I: take the gradients that came, go back, hand those of the input to a stage before on this rank."""
        index, micro_batch = action.stage_index, _micro_batch(action)
        stage = self.stages[index]
        if not stage.is_last and index + 1 not in self.stages:
            self._receive("receive_gradients", self.schedule.bwd_recv_ops.pop((index, micro_batch)))
        full = action.computation_type == FULL_BACKWARD
        with self.log.computing("backward" if full else "backward_input"):
            stage.backward_one_chunk(
                micro_batch,
                loss=self.schedule._maybe_get_loss(stage, micro_batch),
                full_backward=full,
                last_backward=full and self._is_last_backward(index),
            )
        if index - 1 in self.stages:
            self.stages[index - 1].set_local_bwd_input(stage.get_local_bwd_output(micro_batch), micro_batch)

    def backward_weight(self, action: Action, ctx: PipelineContext) -> None:  # noqa: ARG002  torch calls it so
        """W: the gradients of the weights, of which I has kept what it needs."""
        with self.log.computing("backward_weight"):
            self.stages[action.stage_index].backward_weight_one_chunk(
                _micro_batch(action), last_backward=self._is_last_backward(action.stage_index)
            )

    def forward_and_backward(self, action: Action, ctx: PipelineContext) -> None:
        """F of one micro-batch and B of another, which do not depend on each other: here one after the other."""
        forward, backward = split_pair(action)
        self.forward(forward, ctx)
        self.backward(backward, ctx)

    def _is_last_backward(self, index: int) -> bool:
        self.schedule.backward_counter[index] += 1
        return self.schedule.backward_counter[index] == self.schedule._n_microbatches

    def _receive(self, name: str, works: Iterable[dist.Work]) -> None:
        with self.log.waiting(name, "pipeline_bubble"), collective(name):
            for work in works:
                work.wait()


def _micro_batch(action: Action) -> int:
    assert action.microbatch_index is not None  # only of actions that do not compute
    return action.microbatch_index


def split_pair(action: Action) -> tuple[Action, Action]:
    """The forward and the backward of F&B."""
    assert action.sub_actions is not None
    forward, backward = action.sub_actions
    return forward, backward
