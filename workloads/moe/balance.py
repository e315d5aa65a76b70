"""Other ways than the router's bias to load experts evenly, put on routers from outside.

sequence: DeepSeek-V3's complementary loss within each sequence, with a tiny alpha beside the bias (arXiv 2412.19437,
    equations 17-20).
auxiliary: the classic loss over all tokens of a batch (GShard, arXiv 2006.16668; Switch, arXiv 2101.03961,
    equation 4), with the sigmoid gate's affinities made to add up to 1 in the place of a softmax.
forced: experts are dealt out in turn, the weights computed as ever. Useless for learning; it measures what
    perfect balance would be worth.
none: nothing beside the bias; with a bias rate of 0, nothing at all.

Both losses are alpha · Σ_e f_e · P_e: f_e is expert e's share of the choices times E, which has no gradient, and P_e
its mean share of the affinity, which has one. They are joined to the routing weights, so that backward() of
whatever loss comes later adds their gradient, on any stage of a pipeline and under recomputation; the training loss
that is reported stays the plain one and compares across methods. Where a step is summed over micro-batches, scale
`alpha` as the loss is scaled.

Shape suffixes: L tokens of all sequences, B sequences, T tokens of one, E experts, K experts chosen per token.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.moe.router import Router, Weigh


class Balancing(StrEnum):
    """How experts are loaded evenly, beside the bias."""

    NONE = "none"
    SEQUENCE = "sequence"
    AUXILIARY = "auxiliary"
    FORCED = "forced"


def set_balancing(
    routers: Iterable[Router], balancing: Balancing, *, alpha: float = 0.0, sequence_length: int | None = None
) -> None:
    """Have `routers` balance in this way from now on, and in no other.

    `alpha` weighs a loss (DeepSeek-V3: 1e-4 for `sequence`; Switch: 1e-2 for `auxiliary`); `sequence_length` is
    needed by `sequence` alone. Raises InvalidValue where either is missing.
    """
    weigh: Weigh | None = None
    if balancing in {Balancing.SEQUENCE, Balancing.AUXILIARY} and not alpha > 0:
        raise InvalidValue(f"alpha {alpha:g} for {balancing} balancing", where="alpha", hint="give one above 0")
    if balancing is Balancing.SEQUENCE:
        if sequence_length is None:
            raise InvalidValue("sequence balancing of sequences of unknown length", where="sequence_length")
        weigh = partial(_weigh_by_sequence, alpha=alpha, sequence_length=sequence_length)
    elif balancing is Balancing.AUXILIARY:
        weigh = partial(_weigh_by_batch, alpha=alpha)
    for router in routers:
        router.weigh = weigh
        router.choose = partial(deal_out, active=router.shape.active) if balancing is Balancing.FORCED else None


def deal_out(choice_LE: Tensor, active: int) -> Tensor:
    """experts_LK in turn, whatever the choice: 0, 1, ..., E - 1, 0, ... Limits of groups are not kept."""
    tokens, experts = choice_LE.shape
    return torch.arange(tokens * active, device=choice_LE.device).view(tokens, active) % experts


def sequence_loss(affinity_LE: Tensor, active: int, sequence_length: int) -> Tensor:
    """Σ_e f_e · P_e within each sequence, mean of the sequences.

    As in the paper, f counts the experts of highest affinity: what the token itself wants, without bias and groups.
    """
    affinity_BTE = affinity_LE.unflatten(0, (-1, sequence_length))
    wanted_BTK = affinity_BTE.detach().topk(active, dim=-1).indices
    return _share_product(affinity_BTE, wanted_BTK).mean()


def auxiliary_loss(affinity_LE: Tensor, experts_LK: Tensor) -> Tensor:
    """Σ_e f_e · P_e over all tokens; f counts the experts that were really chosen."""
    return _share_product(affinity_LE[None], experts_LK[None])[0]


def _share_product(affinity_BTE: Tensor, experts_BTK: Tensor) -> Tensor:
    """Σ_e f_e · P_e of each sequence, (B,). 1 when both are even; E / K when all tokens want the same experts only."""
    experts = affinity_BTE.shape[2]
    chosen_BTE = torch.zeros_like(affinity_BTE).scatter_(2, experts_BTK, 1.0)
    f_BE = chosen_BTE.mean(dim=1) * experts / experts_BTK.shape[2]
    p_BE = (affinity_BTE / affinity_BTE.sum(dim=-1, keepdim=True)).mean(dim=1)
    return (f_BE * p_BE).sum(dim=-1)


def _weigh_by_sequence(
    affinity_LE: Tensor, experts_LK: Tensor, weights_LK: Tensor, *, alpha: float, sequence_length: int
) -> Tensor:
    return _with_loss(weights_LK, alpha * sequence_loss(affinity_LE, experts_LK.shape[1], sequence_length))


def _weigh_by_batch(affinity_LE: Tensor, experts_LK: Tensor, weights_LK: Tensor, *, alpha: float) -> Tensor:
    return _with_loss(weights_LK, alpha * auxiliary_loss(affinity_LE, experts_LK))


class _WithLoss(torch.autograd.Function):
    """Pass a tensor on unchanged; its backward pass starts that of a loss, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_like = torch.ones_like(loss)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], ctx.loss_like


def _with_loss(tensor: Tensor, loss: Tensor) -> Tensor:
    joined: Tensor = _WithLoss.apply(tensor, loss)  # type: ignore[no-untyped-call]
    return joined
