"""The engine: continuous batching over the paged latent cache.

Requests join and leave between iterations. An iteration is: the scheduler decides who computes how many tokens, one
forward pass computes them all, the sampler draws the next token of each request that has reached its end.

Not thread-safe: one thread calls everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.device import Device
from workloads.inference.cache import DecodeWindow, PagedCache
from workloads.inference.forward import Forward, Hidden, Pass, finish
from workloads.inference.fp8 import describe
from workloads.inference.handover import Handover
from workloads.inference.iteration import EngineStatistics, Iteration, Share
from workloads.inference.load import ExpertLoad
from workloads.inference.plan import ForwardPlan, Planner
from workloads.inference.request import EngineLimits, FinishReason, Output, Request
from workloads.inference.sampler import Draw, choose
from workloads.inference.scheduler import Scheduler, Sequence, Turn
from workloads.inference.speculative import count_right
from workloads.moe.model import MoeModel
from workloads.moe.mtp import MultiTokenPrediction

T = TypeVar("T")


class _Step(NamedTuple):
    """A turn, and the first of its rows among all new tokens of the iteration."""

    turn: Turn
    first: int

    @property
    def last_known(self) -> int:
        """Row of the last token that is no guess."""
        return self.first + self.turn.new - self.turn.drafts - 1


class Engine:
    """Serves one model on one device. `clock`: seconds, monotonic."""

    def __init__(
        self,
        model: MoeModel,
        device: Device,
        *,
        limits: EngineLimits,
        clock: Callable[[], float] = time.monotonic,
        prediction: MultiTokenPrediction | None = None,
        fp8: bool = False,
    ) -> None:
        """`prediction`: the weights of multi-token prediction, which `limits.speculative_depth` = 1 needs.

        `fp8`: multiply by weights in FP8, emulated where the device cannot (`precision` says which).
        """
        if limits.speculative_depth > (0 if prediction is None else 1):
            raise InvalidValue(
                f"speculative_depth = {limits.speculative_depth}", where="engine limits",
                hint="give 1 and a model trained with multi-token prediction, or 0",
            )  # fmt: skip
        self.limits, self._device, self._clock = limits, device, clock
        self.precision = describe(device.torch) if fp8 else str(model.embedding.weight.dtype).removeprefix("torch.")
        """For provenance: "float32", "fp8: emulated", ..."""
        config, depth = model.config, limits.speculative_depth
        self.forward = Forward(model.eval(), prediction if depth else None, fp8=fp8)
        self._cache = PagedCache(
            layers=self.forward.cached_layers,
            pages=limits.total_pages,
            page_tokens=limits.page_tokens,
            width=config.attention.cached_values_per_token,
            dtype=model.embedding.weight.dtype,
            device=device.torch,
        )
        self._window = DecodeWindow(self._cache, slots=limits.max_batch, length=limits.context + depth)
        self._planner = Planner(config, device.torch, length=limits.context + depth, slots=limits.max_batch)
        self._scheduler = Scheduler(limits, released=self._window.leave)
        self._load = ExpertLoad(config, device.torch)
        self._vocabulary = config.vocabulary
        self._prompt_tokens = self._cached_tokens = self._generated = self._drafted = self._accepted = 0

    def now(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises InvalidValue where it is empty, over the context, larger than the cache, holds ids that the vocabulary
        does not have, or has the id of another one that is not answered yet.
        """
        if request.prompt and not 0 <= min(request.prompt) <= max(request.prompt) < self._vocabulary:
            raise InvalidValue(
                f"ids from {min(request.prompt)} to {max(request.prompt)}", where=f"request {request.id}",
                hint=f"the vocabulary has 0 to {self._vocabulary - 1}",
            )  # fmt: skip
        self._scheduler.submit(request)

    def cancel(self, request_id: int) -> Output | None:
        """Take a request out and free its pages at once; None where it is not here (it may just have ended)."""
        sequence = self._scheduler.cancel(request_id)
        return None if sequence is None else Output(request_id, [], "cancelled", sequence.cached_prompt_tokens or 0)

    @torch.inference_mode()
    def hand_over(self, request_id: int) -> Handover:
        """Take out a request whose first token is drawn, with what the cache holds of it, for another engine.

        Raises InvalidValue where it is not running or its prompt is not read yet.
        """
        sequence = self._scheduler.find(request_id)
        if sequence.missing != 1 or not sequence.generated:
            raise InvalidValue("is still reading its prompt", where=f"request {request_id}", hint="iterate first")
        handover = Handover(
            request=sequence.request,
            seed=sequence.seed,
            tokens=list(sequence.tokens),
            drafts=list(sequence.drafts),
            cached_prompt_tokens=sequence.cached_prompt_tokens or 0,
            latents_YSM=self._cache.read_all(self._rows(sequence, 0)),
        )
        self._scheduler.finish(sequence)
        return handover

    def adopt(self, handover: Handover) -> None:
        """Queue a request that another engine has handed over. Raises InvalidValue as `submit`."""
        self._scheduler.adopt(handover)

    def _rows(self, sequence: Sequence, start: int) -> Tensor:
        """Rows of a sequence's cached tokens from `start`."""
        rows = self._cache.rows(sequence, start, sequence.cached)
        return torch.tensor(rows, dtype=torch.int64, device=self._device.torch)

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._scheduler.waiting or self._scheduler.running)

    def statistics(self) -> EngineStatistics:
        """The present state and the totals since the start."""
        scheduler = self._scheduler
        return EngineStatistics(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            pages=scheduler.pages.pages,
            pages_used=scheduler.pages.used,
            pages_kept=scheduler.pages.kept,
            preemptions=scheduler.preemptions,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_tokens,
            generated_tokens=self._generated,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            expert_load=self._load.total(),
        )

    def forget(self) -> None:
        """Drop what the cache keeps of requests that have ended, as between a warm-up and a measurement."""
        self._scheduler.pages.forget()

    @torch.inference_mode()
    def iterate(self) -> Iteration:
        """Do one iteration. Some request must be waiting or running."""
        start = self._clock()
        preempted = self._scheduler.preemptions
        turns = self._scheduler.plan()
        pages_used = self._scheduler.pages.used
        self._enter_window(turns)
        plans = [self._planner.plan(part, self._cache, self._window) for part in self._micro_batches(turns)]
        steps = _steps(plans)
        sampling = [step for step in steps if step.turn.samples]
        wanted = [row for step in sampling for row in range(step.last_known, step.first + step.turn.new)]

        planned = self._clock()
        passed = self._run([self.forward.steps(plan, self._cache, self._window) for plan in plans])
        hidden_LD = passed[0].hidden_LD if len(passed) == 1 else torch.cat([part.hidden_LD for part in passed])
        logits_ZW = self.forward.logits(self._select(hidden_LD, wanted))
        self._device.synchronize()

        modelled = self._clock()
        chosen = choose(logits_ZW, [draw for step in sampling for draw in _draws(step.turn)])
        sampled = self._clock()
        outputs, kept = self._accept(sampling, chosen)
        for step in steps:
            if not step.turn.samples:
                self._scheduler.advance(step.turn, step.turn.new)
        guessing = self._clock()
        if self.limits.speculative_depth:
            self._guess(plans, steps, kept, hidden_LD)
        guessed = self._clock()

        useful = self._useful_rows(steps, kept)
        activated = self._load.count(_joined_experts(passed), useful)
        shares = [_share(step.turn, kept.get(step.turn.sequence.request.id, 0)) for step in steps]
        for step, output in zip(sampling, outputs, strict=True):
            if output.finish_reason is not None:
                self._scheduler.finish(step.turn.sequence)
        drafted, right = sum(step.turn.drafts for step in steps), sum(kept.values())
        self._drafted, self._accepted = self._drafted + drafted, self._accepted + right
        communication = self._take_communication_seconds()
        end = self._clock()
        return Iteration(
            start_seconds=start,
            duration_seconds=end - start,
            model_seconds=modelled - planned + guessed - guessing - communication,
            communication_seconds=communication,
            scheduler_seconds=planned - start,
            sampler_seconds=sampled - modelled,
            outputs=outputs,
            shares=shares,
            activated_experts=activated,
            drafted_tokens=drafted,
            accepted_tokens=right,
            pages_used=pages_used,
            preemptions=self._scheduler.preemptions - preempted,
        )

    def _micro_batches(self, turns: list[Turn]) -> list[list[Turn]]:
        """One forward pass for all."""
        return [turns]

    def _run(self, passes: list[Pass[T]]) -> list[T]:
        """Run the forward passes."""
        return [finish(one) for one in passes]

    def _take_communication_seconds(self) -> float:
        """Seconds of this iteration in which the device only waited for other ranks."""
        return 0.0

    def _enter_window(self, turns: list[Turn]) -> None:
        for turn in turns:
            sequence = turn.sequence
            if sequence.arrived_YSM is not None:
                self._cache.write_all(self._rows(sequence, sequence.shared), sequence.arrived_YSM[:, sequence.shared :])
                sequence.arrived_YSM = None
            if turn.decodes:
                if turn.sequence.slot < 0:
                    self._window.enter(turn.sequence, turn.new)
                else:
                    self._window.reserve(turn.cached + turn.new)

    def _select(self, x_LD: Tensor, rows: list[int]) -> Tensor:
        if len(rows) == len(x_LD):  # all of them, in order
            return x_LD
        return x_LD.index_select(0, torch.tensor(rows, dtype=torch.int64, device=self._device.torch))

    def _accept(self, sampling: list[_Step], chosen: list[int]) -> tuple[list[Output], dict[int, int]]:
        """Add what was chosen to each sequence; also returns how many guesses of each request came true."""
        outputs: list[Output] = []
        kept: dict[int, int] = {}
        position = 0
        for turn, _ in sampling:
            sequence, request = turn.sequence, turn.sequence.request
            right = count_right(sequence.drafts, chosen[position:]) if turn.drafts else 0
            tokens, reason = _cut(sequence, chosen[position : position + right + 1])
            position += 1 + turn.drafts
            if not sequence.generated:
                self._prompt_tokens += len(request.prompt)
                self._cached_tokens += sequence.cached_prompt_tokens or 0
            sequence.tokens += tokens
            sequence.drafts = []
            self._generated += len(tokens)
            kept[request.id] = len(tokens) - 1
            self._scheduler.advance(turn, turn.new - turn.drafts + len(tokens) - 1)
            outputs.append(Output(request.id, tokens, reason, sequence.cached_prompt_tokens or 0))
        return outputs, kept

    def _guess(self, plans: list[ForwardPlan], steps: list[_Step], kept: dict[int, int], hidden_LD: Tensor) -> None:
        """Run the first depth of multi-token prediction over the same tokens, and keep what it guesses next."""
        later: list[int] = []
        rows: list[int] = []
        guessing: list[Sequence] = []
        for turn, first in steps:
            known = turn.sequence.tokens[turn.cached + 1 : turn.cached + 1 + turn.new]
            later += known + [0] * (turn.new - len(known))  # after a wrong guess: computed again next time
            if turn.samples:
                rows.append(first + turn.new - turn.drafts - 1 + kept[turn.sequence.request.id])
                guessing.append(turn.sequence)
        sizes = [len(plan.ids_L) for plan in plans]
        parts = torch.tensor(later, dtype=torch.int64, device=self._device.torch).split(sizes)
        passes = [
            self.forward.guess_steps(hidden, tokens, plan, self._cache, self._window)
            for hidden, tokens, plan in zip(hidden_LD.split(sizes), parts, plans, strict=True)
        ]
        guessed_LD = torch.cat(self._run(passes))
        guesses: list[int] = self.forward.logits(self._select(guessed_LD, rows)).argmax(dim=-1).tolist()
        for sequence, guess in zip(guessing, guesses, strict=True):
            sequence.drafts = [guess]

    def _useful_rows(self, steps: list[_Step], kept: dict[int, int]) -> Tensor | None:
        """Rows that are no wrong guesses; None: all."""
        if all(kept.get(turn.sequence.request.id, 0) == turn.drafts for turn, _ in steps):
            return None
        rows = [
            row
            for turn, first in steps
            for row in range(first, first + turn.new - turn.drafts + kept.get(turn.sequence.request.id, 0))
        ]
        return torch.tensor(rows, dtype=torch.int64, device=self._device.torch)


def _joined_experts(passed: list[Hidden]) -> list[Tensor]:
    if len(passed) == 1:
        return passed[0].experts
    return [torch.cat(layer) for layer in zip(*(part.experts for part in passed), strict=True)]


def _steps(plans: list[ForwardPlan]) -> list[_Step]:
    steps: list[_Step] = []
    first = 0
    for plan in plans:
        for turn in plan.turns:
            steps.append(_Step(turn, first))
            first += turn.new
    return steps


def _draws(turn: Turn) -> list[Draw]:
    """One for the next token, and one for the token after each guess."""
    sequence, sampling = turn.sequence, turn.sequence.request.sampling
    position = len(sequence.tokens)
    return [Draw(sampling, sequence.seed, position + ahead) for ahead in range(1 + turn.drafts)]


def _cut(sequence: Sequence, tokens: list[int]) -> tuple[list[int], FinishReason | None]:
    """The tokens up to the end of the answer, and why it ends, if it does."""
    request = sequence.request
    if not request.ignore_end:
        for index, token in enumerate(tokens):
            if token in request.stop_ids and sequence.generated + index < request.max_tokens:
                return tokens[: index + 1], "stop"
    left = request.max_tokens - sequence.generated
    return (tokens[:left], "length") if len(tokens) >= left else (tokens, None)


def _share(turn: Turn, right: int) -> Share:
    # One missing token of an answer is a decode step, also where its context had to be computed again before.
    decodes = turn.new == 1 + turn.drafts and turn.samples and turn.cached >= len(turn.sequence.request.prompt)
    return Share(
        request_id=turn.sequence.request.id,
        cached_tokens=turn.cached,
        prefilled_tokens=0 if decodes else turn.new,
        decoded_tokens=1 + right if decodes else 0,
        samples=turn.samples,
        recomputed_tokens=turn.recomputed,
    )
