"""What is asked of the engine and what it answers, in token ids: text is the server's business."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from tokenstone.errors import InvalidValue

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 (below 1e-5) is greedy: the likeliest token, whatever the rest."""

    temperature: float = 0.0
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities add up to this much can be drawn."""
    seed: int | None = None
    """Same seed, same request, same tokens, whatever else is served. None: drawn when the request is submitted."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidValue(f"a temperature of {self.temperature}", where="temperature", hint="give 0 or more")
        if not 0 < self.top_p <= 1:
            raise InvalidValue(f"a top_p of {self.top_p}", where="top_p", hint="give more than 0, 1 at most")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: so near to 0, a division by the temperature would leave the numbers' range."""
        return self.temperature < 1e-5


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how to go on from it."""

    id: int
    prompt: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    """Ids that end the answer; the one that did is its last token."""
    ignore_end: bool = False
    """Whether `stop_ids` are passed over, so that the answer has exactly `max_tokens`: for benchmarks."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one iteration added to one request."""

    request_id: int
    token_ids: list[int]
    """New tokens: usually one; none for a cancelled request, several with speculation."""
    finish_reason: FinishReason | None
    cached_prompt_tokens: int
    """Tokens of the prompt whose latents were found in the cache when the request was first admitted."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine may hold and do at once."""

    max_batch: int
    """Requests that run at the same time."""
    context: int
    """Tokens of a request, prompt and answer together."""
    token_budget: int = 512
    """Tokens that one iteration computes at most, prefilled and decoded."""
    page_tokens: int = 16
    pages: int | None = None
    """Pages of the cache; None: enough for `max_batch` requests of `context` tokens, so nothing is ever preempted."""
    prefix_caching: bool = True
    chunked_prefill: bool = True
    """Whether prompts are cut to the budget and mixed with decoding; without, prompts go first and whole."""
    speculative_depth: int = 0
    """Tokens that multi-token prediction guesses ahead; needs its weights."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "context", "token_budget", "page_tokens"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name} = {getattr(self, name)}", where="engine limits", hint="give 1 or more")
        if self.speculative_depth < 0:
            raise InvalidValue(
                f"speculative_depth = {self.speculative_depth}", where="engine limits", hint="give 0 or more"
            )
        if self.token_budget < self.max_batch * (1 + self.speculative_depth):
            raise InvalidValue(
                f"a token budget of {self.token_budget} for {self.max_batch} requests", where="engine limits",
                hint="give at least one token (and its speculation) for each running request",
            )  # fmt: skip
        if self.pages is not None and self.pages < 1:
            raise InvalidValue(f"pages = {self.pages}", where="engine limits", hint="give 1 or more")

    @property
    def total_pages(self) -> int:
        """Pages of the cache."""
        most = self.context + self.speculative_depth
        return self.pages if self.pages is not None else self.max_batch * -(-most // self.page_tokens)
