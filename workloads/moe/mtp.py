"""Multi-token prediction: further small heads guess the tokens after the next (arXiv 2412.19437, section 2.2).

Depth k joins what the model knows at a position (depth k - 1's hidden state; the trunk's at depth 1) with the token
that really came k later, passes both through one block, and predicts the token after that. So each depth keeps the
whole causal chain. Embedding and output head are the trunk's and are passed in.

The trunk itself is not needed, only its last hidden states and the ids: this runs on the last stage of a pipeline.
Where that stage is on another rank than the first, it holds a copy of the embedding, and the gradients of both are
added up; schedules whose first and last stage share a rank (ZBV, DualPipeV) share the embedding itself.

At depth k, position i has a target only while i + k + 1 < T. Positions without one are cut off rather than masked:
attention is causal, so the others do not change, and no made-up token reaches a router or its load.

Shape suffixes: B sequences, T tokens, t = T - 1 - k positions with a target, D model, W words of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenstone.errors import InvalidValue
from tokenstone.model import ModelShape
from workloads.moe.attention import rotary_angles
from workloads.moe.config import MoeConfig
from workloads.moe.fused import RMSNorm, linear_cross_entropy
from workloads.moe.model import Block, initialise
from workloads.moe.router import Router

WEIGHT = 0.3
"""What the loss counts beside the next token's: DeepSeek-V3's for its first 10 T tokens (0.1 afterwards)."""


class PredictionDepth(nn.Module):
    """(hidden states of depth k - 1, tokens k later) -> hidden states of depth k."""

    def __init__(self, config: MoeConfig, depth: int) -> None:
        super().__init__()
        self.hidden_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.embedding_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.project = nn.Linear(2 * config.dim, config.dim, bias=False)
        self.block = Block(config, config.layers + depth - 1)
        self.norm = RMSNorm(config.dim, config.norm_epsilon)

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
        return [head(hidden_BtD) for hidden_BtD in self._hidden(hidden_BTD, ids_BT, embedding)]

    def _hidden(self, hidden_BTD: Tensor, ids_BT: Tensor, embedding: nn.Module) -> list[Tensor]:
        """What the output head reads at each depth."""
        length = ids_BT.shape[1]
        self.require_length(length)
        hidden = []
        for k, depth in enumerate(self.depths, start=1):
            tokens = length - 1 - k
            later_Bt = ids_BT[:, k : k + tokens]
            positions_Bt = torch.arange(tokens, device=ids_BT.device).expand_as(later_Bt)
            rope = rotary_angles(positions_Bt, self.config.attention.rope_dim, self.config.rope_theta)
            hidden_BTD = depth(hidden_BTD[:, :tokens], embedding(later_Bt), rope)
            hidden.append(hidden_BTD)
        return hidden

    def require_length(self, length: int) -> None:
        """Raise InvalidValue unless sequences of `length` tokens leave a target at the last depth."""
        if length < len(self.depths) + 2:
            raise InvalidValue(
                f"sequences of {length} tokens leave no target at depth {len(self.depths)}",
                where="sequence_length", hint=f"give {len(self.depths) + 2} or more",
            )  # fmt: skip

    def loss(
        self, hidden_BTD: Tensor, ids_BT: Tensor, embedding: nn.Module, head: nn.Linear, *, weight: float = WEIGHT
    ) -> Tensor:
        """`weight` times the mean over depths of the cross entropy: to be added to the next token's loss.

        The first id of a sequence is not used, so the last stage of a pipeline can make the ids from the targets.
        """
        losses = [
            linear_cross_entropy(hidden_BtD.flatten(0, 1), head.weight, ids_BT[:, k + 1 :].flatten())
            for k, hidden_BtD in enumerate(self._hidden(hidden_BTD, ids_BT, embedding), start=1)
        ]
        return weight * torch.stack(losses).mean()

    def routers(self) -> list[Router]:
        """The routers, in order of depth; to be balanced as the trunk's are."""
        return [module for module in self.modules() if isinstance(module, Router)]
