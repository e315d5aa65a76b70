"""One forward pass over the new tokens of all sequences: prompts and answers mixed in one flat row.

A pass is a generator: it yields wherever it waits for other ranks (expert parallelism), so that two micro-batches
can take turns, one computing while the tokens of the other travel. In one process it never yields.

Shape suffixes: L new tokens, Z of them whose next token is wanted, D model, W words, E experts, K experts chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.inference import fp8 as fp8_weights
from workloads.inference.attention import attend
from workloads.inference.cache import DecodeWindow, PagedCache
from workloads.inference.experts import LocalExperts, MakeGrouped, route, swiglu
from workloads.inference.plan import ForwardPlan
from workloads.inference.weights import AttentionWeights, MakeLinear, Norm, plain
from workloads.moe.experts import FeedForward, MixtureOfExperts
from workloads.moe.model import Block, MoeModel
from workloads.moe.mtp import MultiTokenPrediction, PredictionDepth
from workloads.moe.router import Router

T = TypeVar("T")
Pass = Generator[None, None, T]
"""A pass that ends with a T."""


class RemoteExperts(Protocol):
    """Routed experts that partly lie with other ranks."""

    def steps(
        self, h_LD: Tensor, weights_LK: Tensor, experts_LK: Tensor, meanwhile: Callable[[Tensor], Tensor] | None
    ) -> Pass[Tensor]:
        """y_LD of the routed experts, plus that of `meanwhile`, which is computed while tokens travel."""


def finish(steps: Pass[T]) -> T:
    """Run a pass to its end, waiting wherever it waits."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class DenseLayer:
    """A gated feed-forward."""

    def __init__(self, module: FeedForward, make: MakeLinear) -> None:
        self._gate_up, self._down = make(module.gate_up.weight.detach()), make(module.down.weight.detach())

    def __call__(self, x_LD: Tensor) -> Tensor:
        """x_LD -> y_LD."""
        return self._down(swiglu(self._gate_up(x_LD)))


class Layer:
    """One block of the model."""

    def __init__(self, block: Block, index: int, make: MakeLinear, make_grouped: MakeGrouped | None) -> None:
        self.index = index
        self._attention_norm, self._ffn_norm = Norm(block.attention_norm), Norm(block.ffn_norm)
        self._attention = AttentionWeights(block.attention, make)
        self.router: Router | None = None
        self.routed: LocalExperts | None = None
        self.remote: RemoteExperts | None = None
        """Takes the place of `routed` where experts are shared among ranks."""
        self._dense: DenseLayer | None = None
        if isinstance(block.ffn, MixtureOfExperts):
            self.router, self.routed = block.ffn.router, LocalExperts(block.ffn.routed, make_grouped)
            if block.ffn.shared is not None:
                self._dense = DenseLayer(block.ffn.shared, make)
        else:
            self._dense = DenseLayer(block.ffn, make)

    def steps(
        self, x_LD: Tensor, plan: ForwardPlan, cache: PagedCache, window: DecodeWindow, experts: list[Tensor]
    ) -> Pass[Tensor]:
        """x_LD -> x_LD; adds the chosen experts_LK to `experts`."""
        x_LD = x_LD + attend(self._attention, self.index, self._attention_norm(x_LD), plan, cache, window)
        h_LD = self._ffn_norm(x_LD)
        if self.router is None or self.routed is None:
            assert self._dense is not None
            return x_LD + self._dense(h_LD)
        weights_LK, experts_LK = route(self.router, h_LD)
        experts.append(experts_LK)
        if self.remote is not None:
            y_LD = yield from self.remote.steps(h_LD, weights_LK, experts_LK, self._dense)
            return x_LD + y_LD
        x_LD = x_LD + self.routed(h_LD, weights_LK, experts_LK)
        return x_LD if self._dense is None else x_LD + self._dense(h_LD)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a pass leaves behind."""

    hidden_LD: Tensor
    """What the output head reads."""
    experts: list[Tensor]
    """experts_LK of each expert layer."""


class Forward:
    """The whole model over the cache; with the weights of multi-token prediction also its guesses."""

    def __init__(self, model: MoeModel, prediction: MultiTokenPrediction | None, *, fp8: bool = False) -> None:
        make, make_grouped = (fp8_weights.linear, fp8_weights.grouped) if fp8 else (plain, None)
        self._embedding, self._norm = model.embedding.weight.detach(), Norm(model.norm)
        self._head = model.head.weight.detach()
        self.layers = [
            Layer(cast("Block", block), index, make, make_grouped) for index, block in enumerate(model.blocks)
        ]
        self.cached_layers = len(self.layers)
        self._guess: Layer | None = None
        if prediction is not None:
            self._depth = cast("PredictionDepth", prediction.depths[0])
            self._guess = Layer(self._depth.block, self.cached_layers, make, make_grouped)
            self.cached_layers += 1

    def steps(self, plan: ForwardPlan, cache: PagedCache, window: DecodeWindow) -> Pass[Hidden]:
        """The trunk over the new tokens, whose latents are kept."""
        x_LD = F.embedding(plan.ids_L, self._embedding)
        experts: list[Tensor] = []
        for layer in self.layers:
            x_LD = yield from layer.steps(x_LD, plan, cache, window, experts)
        return Hidden(self._norm(x_LD), experts)

    def guess_steps(
        self, hidden_LD: Tensor, later_L: Tensor, plan: ForwardPlan, cache: PagedCache, window: DecodeWindow
    ) -> Pass[Tensor]:
        """The first depth of multi-token prediction: from hidden states and the tokens after them, hidden_LD."""
        assert self._guess is not None
        depth = self._depth
        embedded_LD = depth.embedding_norm(F.embedding(later_L, self._embedding))
        x_LD = depth.project(torch.cat((depth.hidden_norm(hidden_LD), embedded_LD), dim=-1))
        x_LD = yield from self._guess.steps(x_LD, plan, cache, window, [])
        normed_LD: Tensor = depth.norm(x_LD)
        return normed_LD

    def every_layer(self) -> list[Layer]:
        """The trunk's layers, and that of multi-token prediction."""
        return self.layers if self._guess is None else [*self.layers, self._guess]

    def logits(self, hidden_ZD: Tensor) -> Tensor:
        """logits_ZW."""
        return F.linear(hidden_ZD, self._head)
