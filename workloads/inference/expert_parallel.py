"""Expert-parallel serving: every rank has its own requests, and all share the experts.

Each rank runs an engine of its own (attention is data parallel) and holds E / ranks of each layer's routed experts.
In every expert layer tokens travel to the ranks of their experts and back, so all ranks make their iterations
together: one with nothing to do passes no tokens, and computes those of the others.

With two micro-batches the rank's sequences are halved: while the tokens of one half travel, the other computes.

Shape suffixes: L tokens of this rank, D model, K experts chosen per token, P = L · K pairs sorted by expert, Q pairs
that arrive at this rank's experts, R ranks, E experts, e experts of one rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.device import Device
from workloads.inference.engine import Engine, T
from workloads.inference.experts import LocalExperts
from workloads.inference.forward import Pass
from workloads.inference.iteration import Iteration
from workloads.inference.request import EngineLimits
from workloads.inference.scheduler import Turn
from workloads.moe.experts import MixtureOfExperts
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction
from workloads.training.parallel.communication import collective


class Exchange:
    """All-to-alls between the ranks of `group` that are waited for as late as possible. Every rank starts the same
    ones in the same order. `latency_seconds`: a link made slower on purpose, for tests and benchmarks."""

    def __init__(self, group: dist.ProcessGroup, *, latency_seconds: float = 0.0) -> None:
        self._group, self._latency = group, latency_seconds
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self._waited = 0.0

    def steps(self, rows: Tensor, sent_R: list[int], received_R: list[int], name: str) -> Pass[Tensor]:
        """Send `sent_R[r]` rows to rank r, get `received_R[r]` from it; yields once, while they travel."""
        arrived = rows.new_empty((sum(received_R), *rows.shape[1:]))
        with collective(name):
            work = dist.all_to_all_single(
                arrived, rows.contiguous(), received_R, sent_R, group=self._group, async_op=True
            )
        due = time.monotonic() + self._latency
        yield
        begin = time.monotonic()
        with collective(name):
            work.wait()
        time.sleep(max(0.0, due - time.monotonic()) if self._latency else 0.0)
        self._waited += time.monotonic() - begin
        return arrived

    def take_waited_seconds(self) -> float:
        """Seconds that this rank has waited since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


class ShardedExperts:
    """A rank's part of a layer's routed experts (workloads.inference.forward.RemoteExperts)."""

    def __init__(self, local: LocalExperts, exchange: Exchange, routed: int) -> None:
        self._local, self._exchange, self._routed = local, exchange, routed

    def steps(
        self, h_LD: Tensor, weights_LK: Tensor, experts_LK: Tensor, meanwhile: Callable[[Tensor], Tensor] | None
    ) -> Pass[Tensor]:
        """Send each token to its experts, compute what arrives, bring it home, add up."""
        exchange, active = self._exchange, experts_LK.shape[1]
        per_rank, ranks = self._routed // exchange.ranks, exchange.ranks
        experts_P = experts_LK.flatten()
        order_P = experts_P.argsort(stable=True)
        load_E = torch.bincount(experts_P, minlength=self._routed)
        even_R = [per_rank] * ranks
        arriving_E = yield from exchange.steps(load_E, even_R, even_R, "counts")
        arriving_Re = arriving_E.view(ranks, per_rank)
        sent_R: list[int] = load_E.view(ranks, per_rank).sum(dim=1).tolist()
        received_R: list[int] = arriving_Re.sum(dim=1).tolist()
        travelling = exchange.steps(h_LD.index_select(0, order_P // active), sent_R, received_R, "dispatch")
        next(travelling)
        shared_LD = None if meanwhile is None else meanwhile(h_LD)
        yield
        arrived_QD = yield from travelling
        expert_Re = torch.arange(per_rank, device=h_LD.device).repeat(ranks)
        expert_Q = expert_Re.repeat_interleave(arriving_Re.flatten())
        computed_QD = self._local.rows(arrived_QD, expert_Q, 1) if len(expert_Q) else arrived_QD
        home_PD = yield from exchange.steps(computed_QD, received_R, sent_R, "combine")
        y_PD = torch.empty_like(home_PD).index_copy_(0, order_P, home_PD)
        y_LD = torch.bmm(weights_LK[:, None].to(y_PD.dtype), y_PD.view(*experts_LK.shape, h_LD.shape[1])).squeeze(1)
        return y_LD if shared_LD is None else y_LD + shared_LD


class ExpertParallelEngine(Engine):
    """One rank's engine. All ranks call `iterate` the same number of times: as long as `anyone_busy` says so."""

    def __init__(
        self,
        model: MoeModel,
        device: Device,
        *,
        limits: EngineLimits,
        group: dist.ProcessGroup,
        micro_batches: int = 2,
        latency_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        prediction: MultiTokenPrediction | None = None,
        fp8: bool = False,
    ) -> None:
        """`model` is whole; the experts of the other ranks are dropped from it. `micro_batches`: 1 or 2."""
        routed, ranks = model.config.experts.routed, dist.get_world_size(group)
        if routed % ranks:
            raise InvalidValue(
                f"{routed} experts do not divide among {ranks} ranks", where="layout", hint=f"use a divisor of {routed}"
            )
        if micro_batches not in {1, 2}:
            raise InvalidValue(f"{micro_batches} micro-batches", where="layout", hint="give 1, or 2 that overlap")
        for module in [*model.modules(), *(prediction.modules() if prediction is not None else [])]:
            if isinstance(module, MixtureOfExperts):
                _keep_own_experts(module, dist.get_rank(group), ranks)
        super().__init__(model, device, limits=limits, clock=clock, prediction=prediction, fp8=fp8)
        self._exchange = Exchange(group, latency_seconds=latency_seconds)
        self._parts, self._group = micro_batches, group
        for layer in self.forward.every_layer():
            if layer.routed is not None:
                layer.remote = ShardedExperts(layer.routed, self._exchange, routed)

    def anyone_busy(self) -> bool:
        """Whether any rank has a request. Every rank asks at the same time."""
        busy = torch.tensor([int(self.busy)], device=self._device.torch)
        with collective("busy"):
            dist.all_reduce(busy, dist.ReduceOp.MAX, group=self._group)
        return bool(busy)

    def iterate(self) -> Iteration:
        """Do one iteration together with all ranks, also without a request of our own."""
        return super().iterate()

    def _micro_batches(self, turns: list[Turn]) -> list[list[Turn]]:
        """Two halves, in order of slots, so that each half of the decoding ones stands together in the window."""
        if self._parts == 1:
            return [turns]
        decoding = sorted((turn for turn in turns if turn.decodes), key=lambda turn: turn.sequence.slot)
        others = [turn for turn in turns if not turn.decodes]
        middle, other = -(-len(decoding) // 2), len(others) // 2
        return [decoding[:middle] + others[:other], decoding[middle:] + others[other:]]

    def _run(self, passes: list[Pass[T]]) -> list[T]:
        """Let the passes take turns: each computes until it waits."""
        results: dict[int, T] = {}
        waiting = dict(enumerate(passes))
        while waiting:
            for number, one in list(waiting.items()):
                try:
                    next(one)
                except StopIteration as end:
                    results[number] = end.value
                    del waiting[number]
        return [results[number] for number in range(len(passes))]

    def _take_communication_seconds(self) -> float:
        return self._exchange.take_waited_seconds()


def _keep_own_experts(module: MixtureOfExperts, rank: int, ranks: int) -> None:
    for parameter in (module.routed.gate_up_EDF, module.routed.down_EFD):
        # Cloned, so that the other ranks' experts can be freed.
        parameter.data = parameter.detach().chunk(ranks)[rank].clone()


def serve_all(engine: ExpertParallelEngine, each: Callable[[Iteration], Any]) -> None:
    """Iterate until no rank has a request; `each` sees this rank's iterations."""
    while engine.anyone_busy():
        each(engine.iterate())
