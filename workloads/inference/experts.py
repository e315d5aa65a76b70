"""Routed experts while serving: the same choice and sums as workloads.moe, for few tokens.

With a handful of tokens each chosen expert multiplies its rows in turn; with more, all experts multiply at once, each
as many rows as the busiest one has, as long as that is little waste; with many, in groups.

Shape suffixes as in workloads.moe.experts, and J rows of the busiest expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.moe.experts import RoutedExperts, choose_multiply
from workloads.moe.router import Router

Grouped = Callable[[Tensor, Tensor], Tensor]
"""(x_Pi, load_E) -> y_Po: expert e's rows, which follow those of e - 1, times its weights."""
MakeGrouped = Callable[[Tensor], Grouped]

FEW_TOKENS = 8
"""Below it, active experts take turns."""
_PADDED_PAIRS = 256
_PADDING = 2.5
"""Up to this many pairs of token and expert, and this ratio of padded to real rows, experts are filled up to the
busiest one's rows: the weights' bytes, not the rows, are what takes time there."""


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of a projection that holds both side by side; no gradient."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def route(router: Router, x_LD: Tensor) -> tuple[Tensor, Tensor]:
    """(weights_LK, experts_LK) as the router gives them; its own load is not counted."""
    affinity_LE = F.linear(x_LD.float(), router.weight_ED.float()).sigmoid_()
    experts_LK = (router.choose or router.choose_best)(affinity_LE + router.bias_E)
    chosen_LK = affinity_LE.gather(1, experts_LK)
    return chosen_LK / chosen_LK.sum(dim=-1, keepdim=True) * router.shape.route_scale, experts_LK


class LocalExperts:
    """All routed experts of a layer in this process: (x_LD, weights_LK, experts_LK) -> y_LD."""

    def __init__(self, routed: RoutedExperts, make_grouped: MakeGrouped | None = None) -> None:
        """`make_grouped`: multiply in another format, for any number of tokens."""
        self._formatted: tuple[Grouped, Grouped] | None = None
        if make_grouped is not None:
            self._formatted = make_grouped(routed.gate_up_EDF.detach()), make_grouped(routed.down_EFD.detach())
        self._gate_up_EDF, self._down_EFD = routed.gate_up_EDF.detach(), routed.down_EFD.detach()
        self._gate_up = self._gate_up_EDF.unbind(0)
        self._down = self._down_EFD.unbind(0)

    def __call__(self, x_LD: Tensor, weights_LK: Tensor, experts_LK: Tensor) -> Tensor:
        """The weighted sum of each token's experts."""
        if not len(x_LD):
            return x_LD
        tokens, active = experts_LK.shape
        if self._formatted is None and tokens == 1:
            return self._one_token(x_LD, weights_LK, experts_LK)
        y_PD = self.rows(x_LD, experts_LK.flatten(), active)
        return torch.bmm(weights_LK[:, None].to(y_PD.dtype), y_PD.view(tokens, active, -1)).squeeze(1)

    def rows(self, x_LD: Tensor, experts_P: Tensor, active: int) -> Tensor:
        """y_PD: row p is what expert `experts_P[p]` makes of token p // active."""
        pairs = len(experts_P)
        load_E = torch.bincount(experts_P, minlength=len(self._gate_up))
        order_P = experts_P.argsort(stable=True)
        token_P = order_P if active == 1 else order_P // active
        if self._formatted is None:
            if pairs < FEW_TOKENS * active:
                y_PD = self._in_turn(x_LD.index_select(0, token_P), load_E)
                return torch.empty_like(y_PD).index_copy_(0, order_P, y_PD)
            busiest = int(load_E.max())
            if busiest * len(load_E) <= _PADDING * pairs and pairs <= _PADDED_PAIRS:
                return self._padded(x_LD, experts_P, order_P, token_P, load_E, busiest)
        y_PD = self._grouped(x_LD.index_select(0, token_P), load_E)
        return torch.empty_like(y_PD).index_copy_(0, order_P, y_PD)

    def _one_token(self, x_1D: Tensor, weights_1K: Tensor, experts_1K: Tensor) -> Tensor:
        chosen: list[int] = experts_1K[0].tolist()
        hidden_KF = swiglu(torch.cat([torch.mm(x_1D, self._gate_up[expert]) for expert in chosen]))
        hidden_KF *= weights_1K.view(-1, 1)
        first, *others = zip(hidden_KF.split(1), chosen, strict=True)
        y_1D = torch.mm(first[0], self._down[first[1]])
        for hidden_1F, expert in others:
            y_1D.addmm_(hidden_1F, self._down[expert])
        return y_1D

    def _in_turn(self, x_PD: Tensor, load_E: Tensor) -> Tensor:
        load: list[int] = load_E.tolist()
        outputs = []
        start = 0
        for expert, count in enumerate(load):
            if count:
                hidden_JF = torch.mm(x_PD[start : start + count], self._gate_up[expert])
                outputs.append(torch.mm(swiglu(hidden_JF), self._down[expert]))
                start += count
        return torch.cat(outputs) if outputs else x_PD

    def _padded(
        self, x_LD: Tensor, experts_P: Tensor, order_P: Tensor, token_P: Tensor, load_E: Tensor, busiest: int
    ) -> Tensor:
        routed = len(load_E)
        begin_E = load_E.cumsum(0) - load_E
        sorted_P = experts_P.index_select(0, order_P)
        number_P = torch.arange(len(order_P), device=x_LD.device)
        # Place of each sorted pair among `busiest` rows of each expert; the other places repeat token 0, unused.
        place_P = sorted_P * busiest + number_P - begin_E.index_select(0, sorted_P)
        token_EJ = token_P.new_zeros(routed * busiest).index_copy_(0, place_P, token_P)
        x_EJD = x_LD.index_select(0, token_EJ).view(routed, busiest, -1)
        y_EJD = torch.bmm(swiglu(torch.bmm(x_EJD, self._gate_up_EDF)), self._down_EFD)
        home_P = torch.empty_like(place_P).index_copy_(0, order_P, place_P)
        return y_EJD.flatten(0, 1).index_select(0, home_P)

    def _grouped(self, x_PD: Tensor, load_E: Tensor) -> Tensor:
        if self._formatted is not None:
            gate_up, down = self._formatted
            return down(swiglu(gate_up(x_PD, load_E)), load_E)
        multiply = choose_multiply(x_PD, self._gate_up_EDF)
        return multiply(swiglu(multiply(x_PD, self._gate_up_EDF, load_E)), self._down_EFD, load_E)
