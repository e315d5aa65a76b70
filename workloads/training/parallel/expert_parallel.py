"""Expert parallelism: each rank holds some experts of a layer, and tokens travel to them and back.

    rows sorted by expert  --dispatch-->  rows of our experts  --sort, multiply, unsort-->  --combine-->  rows

Two all-to-alls forward (and one of counts), two backward: the gradient of a dispatch is a combine, and the other
way round, so gradients are exact. `shard_experts` swaps the modules; the model stays as it is.

Shape suffixes as in `exchange`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from workloads.moe.experts import MixtureOfExperts, RoutedExperts
from workloads.training.parallel.exchange import Exchange, Pass, Plan


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_PD: Tensor, exchange: Exchange, plan: Plan) -> Tensor:
        ctx.exchange, ctx.plan = exchange, plan
        return exchange.dispatch(rows_PD, plan, present_pass())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_QD,) = gradients
        return ctx.exchange.combine(gradient_QD, ctx.plan, Pass.BACKWARD), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_QD: Tensor, exchange: Exchange, plan: Plan) -> Tensor:
        ctx.exchange, ctx.plan = exchange, plan
        return exchange.combine(rows_QD, plan, present_pass())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_PD,) = gradients
        return ctx.exchange.dispatch(gradient_PD, ctx.plan, Pass.BACKWARD), None, None


def present_pass() -> Pass:
    """The pass that this thread is in. A stage that recomputes its activations goes forward inside a backward pass."""
    inside_backward: bool = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint tells
    return Pass.BACKWARD if inside_backward else Pass.FORWARD


class ShardedExperts(RoutedExperts):
    """Part `rank` of `ranks` of a layer's routed experts, in place of all of them: (x_LD, routing) -> y_LD."""

    def __init__(self, whole: RoutedExperts, exchange: Exchange, *, rank: int, ranks: int) -> None:
        nn.Module.__init__(self)
        if len(whole.gate_up_EDF) % ranks:
            raise InvalidValue(
                f"{len(whole.gate_up_EDF)} experts do not divide among {ranks} ranks", where="layout",
                hint=f"use a divisor of {len(whole.gate_up_EDF)}",
            )  # fmt: skip
        self.multiply = whole.multiply
        self.exchange = exchange
        # Cloned, so that the other ranks' experts can be freed.
        self.gate_up_EDF = nn.Parameter(whole.gate_up_EDF.detach().chunk(ranks)[rank].clone())
        self.down_EFD = nn.Parameter(whole.down_EFD.detach().chunk(ranks)[rank].clone())

    def _apply_experts(self, x_PD: Tensor, load_E: Tensor) -> Tensor:
        plan = self.exchange.plan(load_E, present_pass())
        arrived_QD: Tensor = _Dispatch.apply(x_PD, self.exchange, plan)  # type: ignore[no-untyped-call]
        y_QD = super()._apply_experts(arrived_QD.index_select(0, plan.by_expert_Q), plan.load_e)
        y_PD: Tensor = _Combine.apply(  # type: ignore[no-untyped-call]
            y_QD.index_select(0, plan.by_rank_Q), self.exchange, plan
        )
        return y_PD


def shard_experts(module: nn.Module, exchange: Exchange, group: dist.ProcessGroup) -> None:
    """Leave this rank its part of the routed experts of every layer in `module`."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    for layer in module.modules():
        if isinstance(layer, MixtureOfExperts):
            layer.routed = ShardedExperts(layer.routed, exchange, rank=rank, ranks=ranks)


def sharded_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of which other ranks of the expert-parallel group hold other parts."""
    return [p for part in module.modules() if isinstance(part, ShardedExperts) for p in part.parameters()]
