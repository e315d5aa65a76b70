"""The feed-forwards: dense, shared, and many small routed experts (DeepSeekMoE, arXiv 2401.06066).

Tokens are sorted by expert, so that each expert multiplies one contiguous block: all blocks in one grouped matrix
multiplication, or one by one in a loop, which is also the oracle of the tests.

Shape suffixes: L tokens, D model, F width of an expert, E experts, K experts chosen per token, P = L · K pairs of
token and expert, sorted by expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.moe.config import MoeConfig
from workloads.moe.fused import combine_rows, spread_rows, swiglu
from workloads.moe.router import Router, Routing

Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_Pi, weights_Eio, load_E) -> y_Po: expert e's rows, which follow those of e - 1, times its weights."""


def grouped_multiply(x_Pi: Tensor, weights_Eio: Tensor, load_E: Tensor) -> Tensor:
    """All experts in one grouped matrix multiplication."""
    return F.grouped_mm(x_Pi, weights_Eio, offs=load_E.cumsum(0, dtype=torch.int32))


def looped_multiply(x_Pi: Tensor, weights_Eio: Tensor, load_E: Tensor) -> Tensor:
    """One matrix multiplication per expert. unbind, since indexing in a loop is quadratic in its backward pass."""
    blocks = x_Pi.split(load_E.tolist())
    return torch.cat([block @ weight for block, weight in zip(blocks, weights_Eio.unbind(0), strict=True)])


def choose_multiply(x_Pi: Tensor, weights_Eio: Tensor) -> Multiply:
    """Grouped where torch can: not for fp64, and only rows that are multiples of 16 bytes."""
    row_bytes = [size * x_Pi.element_size() for size in (x_Pi.shape[-1], weights_Eio.shape[-1])]
    possible = x_Pi.dtype != torch.float64 and not any(size % 16 for size in row_bytes)
    return grouped_multiply if possible else looped_multiply


class FeedForward(nn.Module):
    """SwiGLU: x_D -> y_D."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to the last dimension."""
        y: Tensor = self.down(swiglu(self.gate_up(x)))
        return y


class RoutedExperts(nn.Module):
    """All routed experts of a layer: (x_LD, routing) -> y_LD. `multiply` None chooses by dtype and sizes."""

    def __init__(self, config: MoeConfig, multiply: Multiply | None = None) -> None:
        super().__init__()
        routed, width = config.experts.routed, config.experts.dim
        self.multiply = multiply
        self.gate_up_EDF = nn.Parameter(torch.empty(routed, config.dim, 2 * width))
        self.down_EFD = nn.Parameter(torch.empty(routed, width, config.dim))

    def forward(self, x_LD: Tensor, routing: Routing) -> Tensor:
        """Sort by expert, multiply, put back in order, add up with the router's weights."""
        active = routing.experts_LK.shape[1]
        order_P = routing.experts_LK.flatten().argsort(stable=True)
        token_P = order_P // active
        pairs_P = torch.empty_like(order_P).scatter_(0, order_P, torch.arange(len(order_P), device=order_P.device))
        pairs_LK = pairs_P.view_as(routing.experts_LK)
        y_PD = self._apply_experts(spread_rows(x_LD, token_P, pairs_LK), routing.load_E)
        return combine_rows(y_PD, routing.weights_LK, token_P, pairs_LK)

    def _apply_experts(self, x_PD: Tensor, load_E: Tensor) -> Tensor:
        gate_up_EDF, down_EFD = self._weights()
        multiply = self.multiply or choose_multiply(x_PD, gate_up_EDF)
        return multiply(swiglu(multiply(x_PD, gate_up_EDF, load_E)), down_EFD, load_E)

    def _weights(self) -> tuple[Tensor, Tensor]:
        return self.gate_up_EDF, self.down_EFD


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared experts that every token passes: x_BTD -> y_BTD."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.routed = RoutedExperts(config)
        self.shared = FeedForward(config.dim, config.shared_dim) if config.shared_dim else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Route, apply, add."""
        x_LD = x_BTD.flatten(0, 1)
        y_LD: Tensor = self.routed(x_LD, self.router(x_LD))
        if self.shared is not None:
            y_LD = y_LD + self.shared(x_LD)
        return y_LD.view_as(x_BTD)
