"""Multi-token prediction: further small heads guess the tokens after the next (arXiv 2412.19437, section 2.2).

Depth k joins what the model knows at a position (depth k - 1's hidden state; the trunk's at depth 1) with the token
that really came k later, passes both through one block, and predicts the token after that. So each depth keeps the
whole causal chain. Embedding and output head are the trunk's and are passed in.

The trunk itself is not needed, only its last hidden states and the ids: this runs on the last stage of a pipeline.
Where that stage holds a copy of the embedding, the copy's gradient belongs to the first stage's; schedules whose
first and last stage share a rank (ZBV, DualPipeV) share the embedding itself.

At depth k, position i has a target only while i + k + 1 < T. Positions without one are cut off rather than masked:
attention is causal, so the others do not change, and no made-up token reaches a router or its load.

Shape suffixes: B sequences, T tokens, t = T - 1 - k positions with a target, D model, W words of the vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from tokenstone.model import ModelShape
from workloads.moe.attention import rotary_angles
from workloads.moe.config import MoeConfig
from workloads.moe.model import Block, initialise
from workloads.moe.router import Router

WEIGHT = 0.3
"""What the loss counts beside the next token's: DeepSeek-V3's for its first 10 T tokens (0.1 afterwards)."""


class PredictionDepth(nn.Module):
    """(hidden states of depth k - 1, tokens k later) -> hidden states of depth k."""

    def __init__(self, config: MoeConfig, depth: int) -> None:
        super().__init__()
        self.hidden_norm = nn.RMSNorm(config.dim, config.norm_epsilon)
        self.embedding_norm = nn.RMSNorm(config.dim, config.norm_epsilon)
        self.project = nn.Linear(2 * config.dim, config.dim, bias=False)
        self.block = Block(config, config.layers + depth - 1)
        self.norm = nn.RMSNorm(config.dim, config.norm_epsilon)

    def forward(self, hidden_BtD: Tensor, embedded_BtD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Join, project, apply the block; normed, as the output head wants it."""
        joined = torch.cat((self.hidden_norm(hidden_BtD), self.embedding_norm(embedded_BtD)), dim=-1)
        normed_BtD: Tensor = self.norm(self.block(self.project(joined), rope, None))
        return normed_BtD


class MultiTokenPrediction(nn.Module):
    """`depths` further predictions per position. Its weights are its own: a trunk without it is unchanged."""

    def __init__(self, shape: ModelShape, *, depths: int = 1, seed: int = 0) -> None:
        super().__init__()
        if depths < 1:
            raise InvalidValue(f"{depths} depths of multi-token prediction", where="depths", hint="give 1 or more")
        config = self.config = MoeConfig.of(shape)
        self.depths = nn.ModuleList(PredictionDepth(config, depth) for depth in range(1, depths + 1))
        initialise(self, config.initial_deviation, seed)

    def forward(self, hidden_BTD: Tensor, ids_BT: Tensor, embedding: nn.Module, head: nn.Module) -> list[Tensor]:
        """Logits of depth k = 1, 2, ... as logits_BtW: entry i predicts token i + k + 1 of `ids_BT`.

        `hidden_BTD` is what the output head reads (MoeModel.hidden). Raises InvalidValue for sequences so short
        that the last depth has no target.
        """
        length = ids_BT.shape[1]
        if length < len(self.depths) + 2:
            raise InvalidValue(
                f"sequences of {length} tokens leave no target at depth {len(self.depths)}",
                where="sequence_length", hint=f"give {len(self.depths) + 2} or more",
            )  # fmt: skip
        logits = []
        for k, depth in enumerate(self.depths, start=1):
            tokens = length - 1 - k
            later_Bt = ids_BT[:, k : k + tokens]
            positions_Bt = torch.arange(tokens, device=ids_BT.device).expand_as(later_Bt)
            rope = rotary_angles(positions_Bt, self.config.attention.rope_dim, self.config.rope_theta)
            hidden_BTD = depth(hidden_BTD[:, :tokens], embedding(later_Bt), rope)
            logits.append(head(hidden_BTD))
        return logits

    def loss(
        self, hidden_BTD: Tensor, ids_BT: Tensor, embedding: nn.Module, head: nn.Module, *, weight: float = WEIGHT
    ) -> Tensor:
        """`weight` times the mean over depths of the cross entropy: to be added to the next token's loss."""
        losses = [
            F.cross_entropy(logits_BtW.flatten(0, 1), ids_BT[:, k + 1 :].flatten())
            for k, logits_BtW in enumerate(self(hidden_BTD, ids_BT, embedding, head), start=1)
        ]
        return weight * torch.stack(losses).mean()

    def routers(self) -> list[Router]:
        """The routers, in order of depth; to be balanced as the trunk's are."""
        return [module for module in self.modules() if isinstance(module, Router)]
