"""Which experts a token goes to: sigmoid gate, group-limited choice, balancing without an auxiliary loss.

arXiv 2412.19437, section 2.1.2, and arXiv 2408.15664: each expert has a bias that is added to its affinity only
for the choice, never for the weight. After each step the bias of an expert that had more than the mean load goes
down by a fixed rate, that of one with less goes up: balance without a gradient that works against the model.

Shape suffixes: L tokens of all sequences, D model, E experts, G groups, K experts chosen per token.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.moe.config import MoeConfig

Choose = Callable[[Tensor], Tensor]
"""choice_LE -> experts_LK: takes the place of the router's own choice."""

Weigh = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(affinity_LE, experts_LK, weights_LK) -> weights_LK, for a method that balances through the gradient."""

recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)
"""Set while a forward pass is repeated for its gradients: its tokens have been counted before."""


class Routing(NamedTuple):
    """The router's decision."""

    weights_LK: Tensor
    experts_LK: Tensor
    load_E: Tensor
    """Tokens that each expert gets."""


class Router(nn.Module):
    """x_LD -> Routing. Counts the load in `load_E` until `take_load`. balance.py sets `choose` and `weigh`."""

    bias_E: Tensor
    load_E: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.shape = config.experts
        self.weight_ED = nn.Parameter(torch.empty(config.experts.routed, config.dim))
        self.register_buffer("bias_E", torch.zeros(config.experts.routed, dtype=torch.float32))
        load = torch.zeros(config.experts.routed, dtype=torch.int64)
        self.register_buffer("load_E", load, persistent=False)
        self.choose: Choose | None = None
        self.weigh: Weigh | None = None

    def forward(self, x_LD: Tensor) -> Routing:
        """Choose `active` experts per token and weigh them; in fp32, since near ties decide."""
        affinity_LE = F.linear(x_LD.float(), self.weight_ED.float()).sigmoid()
        choose = self.choose or self.choose_best
        experts_LK = choose(affinity_LE.detach() + self.bias_E)
        chosen_LK = affinity_LE.gather(1, experts_LK)
        weights_LK = chosen_LK / chosen_LK.sum(dim=-1, keepdim=True) * self.shape.route_scale
        if self.weigh is not None:
            weights_LK = self.weigh(affinity_LE, experts_LK, weights_LK)
        load_E = torch.bincount(experts_LK.flatten(), minlength=self.shape.routed)
        if not recomputing.get():
            self.load_E += load_E
        return Routing(weights_LK, experts_LK, load_E)

    def choose_best(self, choice_LE: Tensor) -> Tensor:
        """The best experts of the best groups; a group is as good as the sum of its two best experts."""
        groups, active_groups = self.shape.groups, self.shape.active_groups
        if active_groups < groups:
            choice_LGe = choice_LE.unflatten(1, (groups, -1))
            group_LG = choice_LGe.topk(min(2, choice_LGe.shape[-1]), dim=-1).values.sum(dim=-1)
            best_groups = group_LG.topk(active_groups, dim=-1).indices
            closed_LG = torch.ones_like(group_LG, dtype=torch.bool).scatter(1, best_groups, value=False)
            choice_LE = choice_LGe.masked_fill(closed_LG[..., None], float("-inf")).flatten(1)
        return choice_LE.topk(self.shape.active, dim=-1).indices

    def take_load(self) -> Tensor:
        """Return the load counted since the last call, load_E, and begin again from zero."""
        load_E = self.load_E.clone()
        self.load_E.zero_()
        return load_E

    @torch.no_grad()
    def update_bias(self, load_E: Tensor, rate: float) -> None:
        """Move each bias by `rate` towards the mean load. Once per step, before the optimizer."""
        load_E = load_E.float()
        self.bias_E += rate * torch.sign(load_E.mean() - load_E)


def max_violation(load_E: Tensor) -> float:
    """MaxVio: (largest load - mean load) / mean load; 0 is perfect balance (arXiv 2408.15664, equation 4)."""
    load_E = load_E.double()
    return float(load_E.max() / load_E.mean() - 1.0)
