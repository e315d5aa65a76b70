"""What training minimises: the next token's cross entropy, and multi-token prediction's beside it.

Takes what the output head reads, not logits, which would be the largest tensor of the model. In a pipeline it is the
schedule's loss function, on the rank that holds the last stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.moe.fused import linear_cross_entropy
from workloads.moe.mtp import MultiTokenPrediction


class Objective:
    """(hidden_BTD, targets_BT) -> the loss to go back from. Keeps the next token's, which is what is reported."""

    def __init__(
        self, head: nn.Linear, prediction: MultiTokenPrediction | None = None, embedding: nn.Module | None = None
    ) -> None:
        self._head, self._prediction, self._embedding = head, prediction, embedding
        self._losses: list[Tensor] = []

    def __call__(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Of one micro-batch. Target i is token i + 1, so the ids are the targets moved on; the first is not needed."""
        loss = linear_cross_entropy(hidden_BTD.flatten(0, 1), self._head.weight, targets_BT.flatten())
        self._losses.append(loss.detach())
        if self._prediction is not None and self._embedding is not None:
            ids_BT = F.pad(targets_BT[:, :-1], (1, 0))
            loss = loss + self._prediction.loss(hidden_BTD, ids_BT, self._embedding, self._head)
        return loss

    def take_loss(self) -> Tensor:
        """The next token's loss, mean of the micro-batches since the last call."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).mean()
