"""One training step on many ranks: the pipeline of stages, experts on several ranks, one agreement on gradients.

    model = MoeModel(shape, seed=0)                     # the same on every rank
    with Pipeline(model, groups, device, plan, log) as pipeline:
        loss = pipeline.step(ids_BT, targets_BT)        # gradients as of one process with all the data
        optimizer.step()

Shape suffixes: B sequences of this data-parallel rank, T tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenstone.errors import InvalidValue, TokenstoneError
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.training.parallel.actions import Actions
from workloads.training.parallel.communication import CommunicationLog, not_completed
from workloads.training.parallel.data_parallel import add_copies, clip_gradients, reduce_gradients
from workloads.training.parallel.dualpipev import OverlappedActions, require_two_groups
from workloads.training.parallel.exchange import AllToAll
from workloads.training.parallel.expert_parallel import shard_experts
from workloads.training.parallel.fsdp import check_fsdp, shard_weights
from workloads.training.parallel.layout import Groups
from workloads.training.parallel.redundant_experts import replicate_experts
from workloads.training.parallel.schedules import check_schedule, make_schedule, schedule_kind
from workloads.training.parallel.stages import cut, pipeline_stage


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """How a step is cut up: the batch of one data-parallel rank into micro-batches, worked through by a schedule."""

    schedule: str
    micro_batches: int
    batch_sequences: int
    sequence_length: int
    overlap: bool = True
    """Whether the pairs of DualPipeV run at the same time. Other schedules have no pairs."""
    fsdp: bool = False
    """Whether weights are sharded over the data-parallel ranks, rather than gradients averaged."""
    redundant_experts: int = 0
    """Copies of experts in each layer, over all ranks of an expert-parallel group."""


class Pipeline:
    """This rank's stages and its schedule. The model's experts are sharded in place.

    Raises InvalidValue for sizes that do not fit together; `exchange` None is the plain all-to-all.
    """

    def __init__(
        self,
        model: MoeModel,
        groups: Groups,
        device: torch.device,
        plan: PipelinePlan,
        log: CommunicationLog,
        *,
        exchange: AllToAll | None = None,
        prediction: MultiTokenPrediction | None = None,
    ) -> None:
        layout = groups.layout
        check_schedule(
            plan.schedule, ranks=layout.pipeline, micro_batches=plan.micro_batches,
            batch_sequences=plan.batch_sequences, layers=model.config.layers,
        )  # fmt: skip
        if plan.overlap and plan.schedule == "DualPipeV":
            require_two_groups(groups)
        if plan.fsdp:
            check_fsdp(layout, plan.micro_batches)
        if plan.redundant_experts and layout.experts == 1:
            raise InvalidValue(
                f"{plan.redundant_experts} redundant experts, but one rank holds all", where="redundant_experts",
                hint="share the experts among 2 or more ranks (--experts)",
            )  # fmt: skip
        if layout.experts > 1:
            exchange = exchange or AllToAll(groups.experts_forward, groups.experts_backward, log)
            for part in (model, prediction) if prediction is not None else (model,):
                if plan.redundant_experts:
                    replicate_experts(part, exchange, groups.experts_forward, plan.redundant_experts)
                else:
                    shard_experts(part, exchange, groups.experts_forward)
        kind = schedule_kind(plan.schedule)
        count = layout.pipeline * kind.stages_per_rank
        indices = kind.stages_of(groups.pipeline_rank, layout.pipeline)
        self.groups, self.plan, self.log = groups, plan, log
        self.has_first, self.has_last = 0 in indices, count - 1 in indices
        stages = [
            cut(model, index, count, prediction=prediction, shares_embedding=self.has_first).to(device)
            for index in indices
        ]
        if plan.fsdp:
            for stage in stages:
                shard_weights(stage, stage.parts(), groups, device, log)
        self.stages = nn.ModuleList(stages)
        self._objective = stages[-1].objective
        self._copies: list[nn.Parameter] = []  # of the embedding, if another rank holds it as well
        if prediction is not None and self.has_first != self.has_last:
            self._copies = [
                nn.Module.get_parameter(stage, "embedding.weight") for stage in stages if stage.embedding is not None
            ]
        self.schedule = make_schedule(
            plan.schedule,
            [
                pipeline_stage(
                    stage, index, count, groups.pipeline, device,
                    micro_batch_sequences=plan.batch_sequences // plan.micro_batches,
                    sequence_length=plan.sequence_length,
                )
                for index, stage in zip(indices, stages, strict=True)
            ],
            plan.micro_batches,
            self._objective or _no_loss,
        )  # fmt: skip
        overlapped = plan.overlap and plan.schedule == "DualPipeV"
        self._actions = OverlappedActions(self.schedule, log, device) if overlapped else Actions(self.schedule, log)
        self._actions.register()

    def step(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor | None:
        """Run the schedule once and reduce the gradients. Zero them before.

        Returns the mean loss of this data-parallel rank where the last stage is, None elsewhere. All ranks of a
        pipeline get the same batch. Raises InvalidValue for a batch of another size than planned, WorkloadFailed
        when another rank does not answer.
        """
        wanted = (self.plan.batch_sequences, self.plan.sequence_length)
        if ids_BT.shape != wanted or targets_BT.shape != wanted:
            raise InvalidValue(
                f"a batch of {tuple(ids_BT.shape)} with targets {tuple(targets_BT.shape)}", where="pipeline",
                hint=f"it was planned for {wanted}",
            )  # fmt: skip
        if self.plan.fsdp:
            self._step_alone(ids_BT, targets_BT)
        else:
            self._step_by_schedule(ids_BT, targets_BT)
        for weight in self._copies:
            add_copies(weight, self.groups, self.log)
        reduce_gradients(self.stages, self.groups, self.log)
        return self._objective.take_loss() if self._objective is not None else None

    def _step_alone(self, ids_BT: Tensor, targets_BT: Tensor) -> None:
        """One stage and one micro-batch: there is nothing to schedule."""
        (stage,) = self.stages
        assert self._objective is not None
        with self.log.computing():
            self._objective(stage(ids_BT), targets_BT).backward()

    def _step_by_schedule(self, ids_BT: Tensor, targets_BT: Tensor) -> None:
        own: TokenstoneError | None = None
        try:
            self.schedule.step(
                *([ids_BT] if self.has_first else []),
                target=targets_BT if self.has_last else None,
                return_outputs=False,
            )
        except RuntimeError as error:  # torch wraps what was raised inside a stage
            own = _own_error(error)
            if own is None:
                raise
        if own is not None:
            raise own

    def clip_gradients(self, largest_norm: float) -> Tensor:
        """Scale the gradients as `data_parallel.clip_gradients` does; what two stages hold counts once."""
        uncounted = [] if self.has_first else self._copies
        return clip_gradients(self.stages, largest_norm, self.groups, self.log, uncounted)

    def close(self) -> None:
        """End the threads."""
        if isinstance(self._actions, OverlappedActions):
            self._actions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _no_loss(*_: Tensor) -> Tensor:
    """Of a rank without the last stage: torch takes a schedule without a loss function for one without backward."""
    raise AssertionError("this rank has no last stage")


def _own_error(error: BaseException) -> TokenstoneError | None:
    """The error of ours that led to `error`, if one did; sends between stages are torch's, and so is their error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TokenstoneError):
        if isinstance(cause, dist.DistError) or "/gloo/" in str(cause):  # gloo's have no class, but name its source
            return not_completed("a send between stages", cause)
        cause = cause.__cause__
    return cause
