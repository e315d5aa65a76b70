"""Redundant experts in training: heavy experts are also served by other ranks, so that all ranks have as much to do.

Each rank owns its experts, with their optimizer states, as without. Beside them it has slots for copies of others'
experts, placed by the load of the last steps (`eplb.add_replicas`). In each forward pass the copies' weights come from
their owners, and in the backward pass the copies' gradients go back and are added to the owner's: what is trained is
the same model, to the rounding of sums. Weights travel in the place of tokens: it pays where an expert has many more
tokens than others, and costs the copies' bytes twice a micro-batch.

Shape suffixes: e experts of this rank, C copies on this rank, S copies of our experts elsewhere, X numbers of an
expert's weights, P physical slots of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tokenstone.errors import InvalidValue
from workloads.moe.experts import MixtureOfExperts, RoutedExperts
from workloads.moe.router import Routing
from workloads.training.eplb import Placement, add_replicas, to_slots
from workloads.training.parallel.exchange import AllToAll, Pass
from workloads.training.parallel.expert_parallel import ShardedExperts, present_pass


class ReplicatedExperts(ShardedExperts):
    """A rank's experts and its copies of others': (x_LD, routing) -> y_LD."""

    exchange: AllToAll

    def __init__(self, whole: RoutedExperts, exchange: AllToAll, *, rank: int, ranks: int, redundant: int) -> None:
        super().__init__(whole, exchange, rank=rank, ranks=ranks)
        experts = len(whole.gate_up_EDF)
        if redundant % ranks:
            raise InvalidValue(
                f"{redundant} redundant experts do not divide among {ranks} ranks", where="redundant_experts",
                hint=f"use a multiple of {ranks}",
            )  # fmt: skip
        self.rank, self.redundant = rank, redundant
        self.place(torch.ones(experts))

    def place(self, load_E: Tensor) -> None:
        """Choose anew which experts have copies, and where. Every rank calls it with the same load of all ranks."""
        self.placement: Placement = add_replicas(load_E, self.redundant, self.exchange.ranks)
        self._loan = _Loan(self.placement, len(load_E) // self.exchange.ranks, self.rank)

    def forward(self, x_LD: Tensor, routing: Routing) -> Tensor:
        """As without copies, but each token goes to one of its expert's slots."""
        return super().forward(x_LD, to_slots(routing, self.placement.to(x_LD.device)))

    def _weights(self) -> tuple[Tensor, Tensor]:
        weights: tuple[Tensor, Tensor] = _Borrow.apply(  # type: ignore[no-untyped-call]
            self.gate_up_EDF, self.down_EFD, self.exchange, self._loan
        )
        return weights


class _Loan:
    """Which weights one rank lends, and how many it borrows from each rank."""

    def __init__(self, placement: Placement, owned: int, rank: int) -> None:
        slots = len(placement.logical_P) // placement.devices
        copies = [held[owned:] for held in placement.logical_P.view(placement.devices, slots).tolist()]
        self.borrowed_R = _count([expert // owned for expert in copies[rank]], placement.devices)
        lent = [[expert % owned for expert in held if expert // owned == rank] for held in copies]
        self.lent_R = [len(experts) for experts in lent]
        self.lent_S = torch.tensor([expert for experts in lent for expert in experts], dtype=torch.int64)


def _count(owners: Sequence[int], ranks: int) -> list[int]:
    return [owners.count(rank) for rank in range(ranks)]


class _Borrow(torch.autograd.Function):
    """Both weights, below them the copies'; backward, the copies' gradients are added to their owners'.

    An expert's two matrices travel as one row of numbers.
    """

    @staticmethod
    def forward(ctx: Any, gate_up_eDF: Tensor, down_eFD: Tensor, exchange: AllToAll, loan: _Loan) -> tuple[Tensor, ...]:
        ctx.exchange, ctx.loan, ctx.owned = exchange, loan, len(gate_up_eDF)
        lent_S = loan.lent_S.to(gate_up_eDF.device)
        lent_SX = torch.cat([own.index_select(0, lent_S).flatten(1) for own in (gate_up_eDF, down_eFD)], dim=1)
        copies_CX = exchange.transfer(lent_SX, loan.lent_R, loan.borrowed_R, present_pass(), "borrow")
        copies = copies_CX.split((gate_up_eDF[0].numel(), down_eFD[0].numel()), dim=1)
        owns = (gate_up_eDF, down_eFD)
        return tuple(torch.cat((own, copy.reshape(-1, *own.shape[1:]))) for own, copy in zip(owns, copies, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loan, owned = ctx.loan, ctx.owned
        copies_CX = torch.cat([gradient[owned:].flatten(1) for gradient in gradients], dim=1)
        back_SX = ctx.exchange.transfer(copies_CX, loan.borrowed_R, loan.lent_R, Pass.BACKWARD, "give_back")
        lent_S = loan.lent_S.to(back_SX.device)
        backs = back_SX.split([gradient[0].numel() for gradient in gradients], dim=1)
        own_gradients = [
            gradient[:owned].index_add(0, lent_S, back.reshape(-1, *gradient.shape[1:]))
            for gradient, back in zip(gradients, backs, strict=True)
        ]
        return *own_gradients, None, None


def replicate_experts(module: nn.Module, exchange: AllToAll, group: dist.ProcessGroup, redundant: int) -> None:
    """Leave this rank its part of the routed experts of every layer in `module`, and room for copies of others."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    for layer in module.modules():
        if isinstance(layer, MixtureOfExperts):
            layer.routed = ReplicatedExperts(layer.routed, exchange, rank=rank, ranks=ranks, redundant=redundant)


def place_by_load(module: nn.Module, load: Tensor) -> None:
    """Place the copies of each layer for the load that it has had, (expert layers, E), in the order of routers."""
    layers = [layer.routed for layer in module.modules() if isinstance(layer, MixtureOfExperts)]
    for routed, load_E in zip(layers, load, strict=True):
        if isinstance(routed, ReplicatedExperts):
            routed.place(load_E)
