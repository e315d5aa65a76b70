"""The engine: continuous batching over the latent cache.

Requests wait in order. Each iteration is one of two things: the prefill of waiting requests that got a slot, which
comes first, or one decode step of all running sequences. Sequences join and leave between iterations.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.device import Device
from workloads.inference.cache import LatentCache
from workloads.moe.model import MoeModel

Sampler = Callable[[Tensor], Tensor]
"""logits_BW -> ids_B."""


def greedy(logits_BW: Tensor) -> Tensor:
    """The likeliest word."""
    return logits_BW.argmax(dim=-1)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: `output_tokens` are generated after `prompt`, whatever they are."""

    request: int
    prompt: list[int]
    output_tokens: int
    generated: list[int] = field(default_factory=list)
    slot: int = -1

    @property
    def finished(self) -> bool:
        """Whether everything asked for has been generated."""
        return len(self.generated) >= self.output_tokens

    @property
    def cached_tokens(self) -> int:
        """Tokens in the cache: all but the last generated one, which the next decode step puts there."""
        return len(self.prompt) + len(self.generated) - 1 if self.generated else 0


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration did and how long it took; seconds on the engine's clock."""

    start_seconds: float
    duration_seconds: float
    model_seconds: float
    sequences: list[Sequence]
    prefilled_tokens: int
    """New tokens of each sequence; 0 in a decode step, which has one."""
    contexts: list[int]
    """Context of each sequence, new tokens included."""
    activated_experts: int
    """Experts that had at least one token, summed over layers."""
    finished: list[Sequence]


class Engine:
    """Serves one model on one device. `clock`: seconds, monotonic."""

    def __init__(
        self, model: MoeModel, device: Device, *, max_batch: int, context: int, sampler: Sampler = greedy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._model = model.eval()
        self._device = device
        self._cache = LatentCache(model.config, slots=max_batch, length=context, device=device)
        self._sampler = sampler
        self._clock = clock
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def now(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    def submit(self, sequence: Sequence) -> None:
        """Queue a request. Raises InvalidValue where it is empty or longer than a slot."""
        length = len(sequence.prompt) + sequence.output_tokens
        if not sequence.prompt or sequence.output_tokens < 1 or length > self._cache.length:
            raise InvalidValue(
                f"a request of {len(sequence.prompt)} + {sequence.output_tokens} tokens",
                where=f"request {sequence.request}", hint=f"1 or more of each, {self._cache.length} at most together",
            )  # fmt: skip
        self._waiting.append(sequence)

    @torch.inference_mode()
    def iterate(self) -> Iteration:
        """Do one iteration. Some request must be waiting or running."""
        start = self._clock()
        admitted = self._admit()
        batch = admitted or self._running
        new = len(batch[0].prompt) if admitted else 1
        view = self._cache.view([s.slot for s in batch], [s.cached_tokens for s in batch], new)
        ids = [s.prompt if admitted else s.generated[-1:] for s in batch]
        ids_BT = torch.tensor(ids, device=self._device.torch)

        model_start = self._clock()
        logits_BW = self._model.next_logits(ids_BT, view)
        self._device.synchronize()
        model_seconds = self._clock() - model_start

        contexts = [s.cached_tokens + new for s in batch]
        for sequence, word in zip(batch, self._sampler(logits_BW).tolist(), strict=True):
            sequence.generated.append(word)
        self._running.extend(admitted)
        finished = self._retire()
        activated = int(self._model.take_load().count_nonzero())
        return Iteration(
            start_seconds=start,
            duration_seconds=self._clock() - start,
            model_seconds=model_seconds,
            sequences=list(batch),
            prefilled_tokens=new if admitted else 0,
            contexts=contexts,
            activated_experts=activated,
            finished=finished,
        )

    def _admit(self) -> list[Sequence]:
        """Give slots to waiting requests in order, as long as their prompts are as long as the first one's.

        One length per prefill: nothing is padded, and nothing that is counted was not asked for.
        """
        admitted: list[Sequence] = []
        while self._waiting and len(self._waiting[0].prompt) == len((admitted or self._waiting)[0].prompt):
            slot = self._cache.take()
            if slot is None:
                break
            sequence = self._waiting.popleft()
            sequence.slot = slot
            admitted.append(sequence)
        return admitted

    def _retire(self) -> list[Sequence]:
        finished = [s for s in self._running if s.finished]
        for sequence in finished:
            self._cache.give_back(sequence.slot)
        # In order of slots, so that a full batch reads the cache in place.
        self._running = sorted((s for s in self._running if not s.finished), key=lambda s: s.slot)
        return finished
