"""Who computes how many tokens in the next iteration.

Prefill and decode are one thing here: a request has tokens (prompt and answer so far) of which some are in the cache,
and a turn computes some or all of the rest. A turn that reaches the last token yields the next one.

Running requests come first, in the order in which they came; what is left of the token budget goes to prompts, cut to
it (chunked prefill). Where pages run out, the request that came last is preempted: it gives its pages back and
computes its tokens again later, as far as the cache has not kept them.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from tokenstone.errors import InvalidValue
from workloads.inference.handover import Handover
from workloads.inference.pages import PageAllocator, page_key
from workloads.inference.request import EngineLimits, Request


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way."""

    request: Request
    seed: int
    tokens: list[int]
    """Prompt and answer so far."""
    pages: list[int] = field(default_factory=list)
    cached: int = 0
    """Tokens, from the first, whose latents are in the cache."""
    shared: int = 0
    """Tokens, from the first, that were found in the cache when the request was last admitted."""
    computed: int = 0
    """The most that `cached` ever was: computing below it is done a second time."""
    cached_prompt_tokens: int | None = None
    keys: list[bytes] = field(default_factory=list)
    """Of the full pages so far, found or published."""
    drafts: list[int] = field(default_factory=list)
    """Guesses at the tokens after the last one."""
    slot: int = -1
    """Row of the decode window; -1 outside it."""
    arrived_YSM: Tensor | None = None
    """Latents of all tokens but the last that another engine has computed, until they are in pages."""

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache yet: 1 while decoding."""
        return len(self.tokens) - self.cached


@dataclass(frozen=True, slots=True)
class Turn:
    """`new` tokens of a sequence, after the `cached` ones; the last `drafts` of them are guesses."""

    sequence: Sequence
    new: int
    cached: int
    drafts: int
    recomputed: int
    """Of the new tokens, those that had been computed before a preemption."""
    samples: bool
    """Whether it reaches the end of what is known, so that a next token can be drawn."""
    decodes: bool
    """Whether it goes on from the last token of an answer, with all its drafts, rather than reading tokens."""


class Scheduler:
    """Waiting and running requests, and the pages that they hold."""

    def __init__(self, limits: EngineLimits, released: Callable[[Sequence], None] = lambda _: None) -> None:
        """`released` is told of every sequence whose pages are given back."""
        self.limits = limits
        self._released = released
        self.pages = PageAllocator(limits.total_pages)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def submit(self, request: Request) -> None:
        """Queue a request. Raises InvalidValue where it is empty, over the context, or larger than the cache."""
        self._check(request)
        seed = request.sampling.seed
        self.waiting.append(Sequence(request, secrets.randbits(63) if seed is None else seed, list(request.prompt)))

    def adopt(self, handover: Handover) -> None:
        """Queue a request that another engine has begun. Raises InvalidValue as `submit`, and where it is torn."""
        self._check(handover.request)
        tokens, cached = handover.tokens, handover.latents_YSM.shape[1]
        if cached != len(tokens) - 1 or len(handover.drafts) != self.limits.speculative_depth:
            raise InvalidValue(
                f"{cached} cached tokens of {len(tokens)} and {len(handover.drafts)} guesses",
                where=f"request {handover.request.id}",
                hint="hand over a request whose next token has been drawn, between engines with the same limits",
            )
        self.waiting.append(
            Sequence(
                handover.request, handover.seed, list(tokens), cached_prompt_tokens=handover.cached_prompt_tokens,
                drafts=list(handover.drafts), arrived_YSM=handover.latents_YSM,
            )
        )  # fmt: skip

    def find(self, request_id: int) -> Sequence:
        """The running sequence of a request; raises InvalidValue where there is none."""
        for sequence in self.running:
            if sequence.request.id == request_id:
                return sequence
        raise InvalidValue("is not running", where=f"request {request_id}")

    def _check(self, request: Request) -> None:
        if any(sequence.request.id == request.id for group in (self.running, self.waiting) for sequence in group):
            raise InvalidValue("is not answered yet", where=f"request {request.id}", hint="give it an id of its own")
        length = len(request.prompt) + request.max_tokens
        if not request.prompt or request.max_tokens < 1 or length > self.limits.context:
            raise InvalidValue(
                f"a request of {len(request.prompt)} + {request.max_tokens} tokens", where=f"request {request.id}",
                hint=f"1 or more of each, {self.limits.context} at most together",
            )  # fmt: skip
        if self._pages_for(length + self.limits.speculative_depth) > self.limits.total_pages:
            raise InvalidValue(
                f"a request of {length} tokens does not fit in {self.limits.total_pages} pages of "
                f"{self.limits.page_tokens}", where=f"request {request.id}", hint="shorten it or give more pages",
            )  # fmt: skip

    def cancel(self, request_id: int) -> Sequence | None:
        """Take a request out and free its pages at once; None where it is not here (it may just have ended)."""
        for group in (self.running, self.waiting):
            for sequence in group:
                if sequence.request.id == request_id:
                    group.remove(sequence)
                    self.release(sequence)
                    return sequence
        return None

    def plan(self) -> list[Turn]:
        """The turns of the next iteration; none where nothing can run."""
        if not self.limits.chunked_prefill:
            turns = self._admit(self.limits.token_budget)
            return turns or self._continue()[0]
        turns, budget = self._continue()
        return turns + self._admit(budget)

    def finish(self, sequence: Sequence) -> None:
        """Take out a request that has its answer."""
        self.running.remove(sequence)
        self.release(sequence)

    def advance(self, turn: Turn, tokens: int) -> None:
        """`tokens` of a turn are in the cache now; let others find the pages that are full."""
        sequence = turn.sequence
        sequence.cached = turn.cached + tokens
        sequence.computed = max(sequence.computed, sequence.cached)
        if self.limits.prefix_caching:
            self._publish(sequence)

    def release(self, sequence: Sequence) -> None:
        """Give a sequence's pages back."""
        self.pages.give_back(sequence.pages)
        sequence.pages, sequence.cached, sequence.keys, sequence.drafts = [], 0, [], []
        sequence.arrived_YSM = None
        self._released(sequence)

    def _continue(self) -> tuple[list[Turn], int]:
        """The running sequences' turns, and what is left of the budget."""
        budget = self.limits.token_budget
        turns: list[Turn] = []
        # Every running sequence that decodes is served; prompts under way share the rest.
        decoding = sum(1 + len(s.drafts) for s in self.running if s.missing == 1)
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an earlier one
            if sequence.missing == 1:
                new = 1 + len(sequence.drafts)
                decoding -= new
            else:
                new = min(sequence.missing, budget - decoding)
            if new < 1 or not self._make_room(sequence, new):
                continue
            turns.append(self._turn(sequence, new))
            budget -= new
        return turns, budget

    def _admit(self, budget: int) -> list[Turn]:
        """Turns of waiting requests, in order, while there is room."""
        turns: list[Turn] = []
        # What the prompts under way will still take, and the next token of each running request.
        promised = sum(max(0, self._pages_for(len(s.tokens) + 1) - len(s.pages)) for s in self.running)
        while self.waiting and len(self.running) < self.limits.max_batch and budget > 0:
            sequence = self.waiting[0]
            found = self._known_prefix(sequence)
            # Room for all its tokens and the next one, so that it is not preempted again before it gets anywhere.
            needed = self._pages_for(len(sequence.tokens) + len(sequence.drafts) + 1) - len(found)
            unused = sum(self.pages.is_unused(page) for page in found)
            if needed > self.pages.available - unused - promised:
                break
            shared = cached = len(found) * self.limits.page_tokens
            if sequence.arrived_YSM is not None:
                cached = sequence.arrived_YSM.shape[1]
            new = len(sequence.tokens) + len(sequence.drafts) - cached
            if sequence.drafts and new > budget:
                break  # a decode step is not cut
            if self.limits.chunked_prefill:
                new = min(new, budget)
            elif turns and new > budget:
                break
            self.waiting.popleft()
            for page in found:
                self.pages.hold(page)
            sequence.pages, sequence.cached, sequence.shared = found, cached, shared
            if sequence.cached_prompt_tokens is None:
                sequence.cached_prompt_tokens = cached
            self.running.append(sequence)
            grown = self._grow(sequence, new)
            assert grown  # counted above
            promised += self._pages_for(len(sequence.tokens) + 1) - len(sequence.pages)
            turns.append(self._turn(sequence, new))
            budget -= new
        return turns

    def _turn(self, sequence: Sequence, new: int) -> Turn:
        drafts = len(sequence.drafts) if sequence.missing == 1 else 0
        cached, computed, total = sequence.cached, sequence.computed, len(sequence.tokens)
        samples = cached + new - drafts == total
        decodes = total - cached == 1 and drafts == self.limits.speculative_depth and sequence.generated > 0
        recomputed = max(0, min(cached + new - drafts, computed) - cached)
        return Turn(sequence, new, cached, drafts, recomputed, samples, decodes)

    def _known_prefix(self, sequence: Sequence) -> list[int]:
        """Pages that hold the sequence's first tokens already; the last token is always computed."""
        if not self.limits.prefix_caching:
            return []
        size, found, key = self.limits.page_tokens, [], b""
        sequence.keys = []
        for start in range(0, len(sequence.tokens) - size, size):
            key = page_key(key, sequence.tokens[start : start + size])
            page = self.pages.find(key)
            if page is None:
                break
            found.append(page)
            sequence.keys.append(key)
        return found

    def _publish(self, sequence: Sequence) -> None:
        size = self.limits.page_tokens
        for index in range(len(sequence.keys), sequence.cached // size):
            parent = sequence.keys[-1] if sequence.keys else b""
            key = page_key(parent, sequence.tokens[index * size : (index + 1) * size])
            sequence.keys.append(key)
            self.pages.publish(sequence.pages[index], key)

    def _make_room(self, sequence: Sequence, new: int) -> bool:
        """Get pages for `new` more tokens, preempting from the end; False where it had to preempt itself."""
        while not self._grow(sequence, new):
            last = self.running.pop()
            self.release(last)
            self.waiting.appendleft(last)
            self.preemptions += 1
            if last is sequence:
                return False
        return True

    def _grow(self, sequence: Sequence, new: int) -> bool:
        while len(sequence.pages) < self._pages_for(sequence.cached + new):
            page = self.pages.take()
            if page is None:
                return False
            sequence.pages.append(page)
        return True

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.page_tokens)
