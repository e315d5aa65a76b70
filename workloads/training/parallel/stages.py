"""Cutting the model into pipeline stages: the embedding goes with the first, the last norm and the head with the last.

A stage's parameters keep the names that they have in the whole model, so that checkpoints fit either.

Shape suffixes: B sequences of a micro-batch, T tokens of a sequence, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from tokenstone.errors import InvalidValue
from workloads.moe.attention import rotary_angles
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.training.objective import Objective


class Stage(nn.Module):
    """Some consecutive layers of `model`: ids_BT or x_BTD -> x_BTD, at last what the head reads. Shares its modules.

    The last stage holds the head, and multi-token prediction with the embedding that it needs, for the loss function
    to use: the logits never exist as a whole. With `shares_embedding` another stage of this rank holds the embedding
    (torch scales what a stage holds, and twice if two do).
    """

    def __init__(
        self,
        model: MoeModel,
        layers: Sequence[int],
        *,
        first: bool,
        last: bool,
        prediction: MultiTokenPrediction | None = None,
        shares_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.first = first
        self.prediction = prediction if last else None
        predicts = self.prediction is not None
        self.embedding = model.embedding if first or (predicts and not shares_embedding) else None
        self.objective = Objective(model.head, self.prediction, model.embedding) if last else None
        self.blocks = nn.ModuleDict({str(layer): model.blocks[layer] for layer in layers})
        self.norm = model.norm if last else None
        self.head = model.head if last else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply this stage."""
        positions_BT = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        rope = rotary_angles(positions_BT, self.config.attention.rope_dim, self.config.rope_theta)
        if self.first:
            assert self.embedding is not None
            x = self.embedding(x)
        for block in self.blocks.values():
            x = block(x, rope, None)
        if self.norm is not None:
            x = self.norm(x)
        return x

    def parts(self) -> list[nn.Module]:
        """The modules that are called one after the other: layers, and depths of multi-token prediction."""
        return [*self.blocks.values(), *(self.prediction.depths if self.prediction is not None else [])]


def layers_of_stages(layers: int, stages: int) -> list[range]:
    """Share out the layers as evenly as they go; the first stages get one more, since the last has the head.

    Raises InvalidValue when a stage would be empty.
    """
    if layers < stages:
        raise InvalidValue(
            f"{layers} layers do not fill {stages} pipeline stages", where="layout",
            hint="use fewer pipeline ranks, a schedule with one stage per rank (1F1B), or a deeper model",
        )  # fmt: skip
    each, more = divmod(layers, stages)
    begins = [index * each + min(index, more) for index in range(stages + 1)]
    return [range(begin, end) for begin, end in pairwise(begins)]


def cut(
    model: MoeModel,
    stage: int,
    stages: int,
    *,
    prediction: MultiTokenPrediction | None = None,
    shares_embedding: bool = False,
) -> Stage:
    """Return stage `stage` of `stages`; the last one gets `prediction`."""
    layers = layers_of_stages(model.config.layers, stages)[stage]
    return Stage(
        model, layers, first=stage == 0, last=stage == stages - 1,
        prediction=prediction, shares_embedding=shares_embedding,
    )  # fmt: skip


def pipeline_stage(
    stage: Stage,
    index: int,
    stages: int,
    group: dist.ProcessGroup,
    device: torch.device,
    *,
    micro_batch_sequences: int,
    sequence_length: int,
) -> PipelineStage:
    """Give torch the stage with the shapes of what it gets and returns.

    Without them torch would find them out by a forward and a backward pass of its own, which route tokens, exchange
    them and count as load.
    """
    config = stage.config

    def rows(width: int) -> Tensor:
        return torch.empty(micro_batch_sequences, sequence_length, width, device="meta", requires_grad=True)

    ids_BT = torch.empty(micro_batch_sequences, sequence_length, device="meta", dtype=torch.int64)
    return PipelineStage(
        stage,
        index,
        stages,
        device,
        input_args=ids_BT if index == 0 else rows(config.dim),
        output_args=rows(config.dim),
        group=group,
        # torch splits a backward pass wrongly where a weight is used twice, as head and embedding are here: this stage
        # goes all the way back at once, and what is left for later is nothing.
        dw_builder=None if stage.prediction is None else lambda: lambda: None,
    )
