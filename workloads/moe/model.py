"""The whole model on one device. Parallelism, precision and the cache come from outside.

Shape suffixes: B sequences, T new tokens, D model, W words of the vocabulary, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenstone.model import ModelShape
from workloads.moe.attention import Cache, LatentAttention, rotary_angles
from workloads.moe.config import MoeConfig
from workloads.moe.experts import FeedForward, MixtureOfExperts
from workloads.moe.fused import RMSNorm
from workloads.moe.router import Router


class Block(nn.Module):
    """One layer: attention, then a dense feed-forward (the first layers) or experts, each on a normed residual."""

    def __init__(self, config: MoeConfig, layer: int) -> None:
        super().__init__()
        dense = layer < config.experts.dense_layers
        self.attention_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.attention = LatentAttention(config, layer)
        self.ffn_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.ffn = FeedForward(config.dim, config.ffn_dim) if dense else MixtureOfExperts(config)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        """x_BTD -> x_BTD."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, cache)
        y_BTD: Tensor = x_BTD + self.ffn(self.ffn_norm(x_BTD))
        return y_BTD


@torch.no_grad()
def initialise(module: nn.Module, deviation: float, seed: int) -> None:
    """Draw every matrix anew; the norms' gains stay 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, deviation, generator=generator)


class MoeModel(nn.Module):
    """A decoder: token ids in, logits of the next token out."""

    def __init__(self, shape: ModelShape, *, seed: int = 0) -> None:
        super().__init__()
        config = self.config = MoeConfig.of(shape)
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_epsilon)
        self.head = nn.Linear(config.dim, config.vocabulary, bias=False)
        initialise(self, config.initial_deviation, seed)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits at every position, logits_BTW."""
        logits_BTW: Tensor = self.head(self.hidden(ids_BT))
        return logits_BTW

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """What the output head reads at every position, hidden_BTD."""
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
        return self._hidden(ids_BT, positions_BT, None)

    def next_logits(self, ids_BT: Tensor, cache: Cache) -> Tensor:
        """Logits after the last of the new tokens, logits_BW; `cache` holds what came before and keeps the new."""
        x_BTD = self._hidden(ids_BT, cache.positions_BT, cache)
        logits_BW: Tensor = self.head(x_BTD[:, -1])
        return logits_BW

    def _hidden(self, ids_BT: Tensor, positions_BT: Tensor, cache: Cache | None) -> Tensor:
        rope = rotary_angles(positions_BT, self.config.attention.rope_dim, self.config.rope_theta)
        x_BTD = self.embedding(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, cache)
        normed_BTD: Tensor = self.norm(x_BTD)
        return normed_BTD

    def routers(self) -> list[Router]:
        """The routers, in order of layers."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def take_load(self) -> Tensor:
        """Tokens that each expert of each expert layer has had since the last call, (expert layers, E)."""
        return torch.stack([router.take_load() for router in self.routers()])

    def parameter_count(self) -> int:
        """Stored parameters, norm gains included."""
        return sum(parameter.numel() for parameter in self.parameters())
