"""What an iteration did, and what the engine is doing: for the ledger, for gauges and counters."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.inference.request import Output


@dataclass(frozen=True, slots=True)
class Share:
    """What one request had in an iteration."""

    request_id: int
    cached_tokens: int
    """Tokens in the cache before."""
    prefilled_tokens: int
    """Tokens of the prompt, or computed again, that were read."""
    decoded_tokens: int
    """Tokens of the answer that came of a decode step: 1, and the guesses that were right."""
    samples: bool
    """Whether a next token was drawn."""
    recomputed_tokens: int
    """Of the prefilled tokens, those that had been computed before a preemption."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration did and how long it took; seconds on the engine's clock.

    The duration is model + communication + scheduler + sampler seconds and a rest that is Python's.
    """

    start_seconds: float
    duration_seconds: float
    model_seconds: float
    communication_seconds: float
    scheduler_seconds: float
    sampler_seconds: float
    outputs: list[Output]
    shares: list[Share]
    activated_experts: int
    """Experts that had at least one useful token, summed over layers."""
    drafted_tokens: int
    accepted_tokens: int
    pages_used: int
    """While it ran."""
    preemptions: int

    @property
    def recomputed_tokens(self) -> int:
        """Tokens that had been computed before a preemption."""
        return sum(share.recomputed_tokens for share in self.shares)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The engine's state, for gauges, and its totals, for counters."""

    waiting: int
    running: int
    pages: int
    pages_used: int
    pages_kept: int
    """Pages that hold what nobody uses now and a later prompt may begin with."""
    preemptions: int
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt tokens, those found in the cache."""
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    expert_load: list[list[int]]
    """Useful tokens of each expert of each expert layer."""
