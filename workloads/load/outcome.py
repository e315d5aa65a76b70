"""What became of each request, and from there to the wire's columns."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenstone.wire import RequestError, RequestTimes


@dataclass(slots=True)
class Outcome:
    """One request; instants on the monotonic clock, in seconds."""

    due: float
    sent: float | None = None
    first: float | None = None
    end: float | None = None
    gaps: array[float] = field(default_factory=lambda: array("d"))
    """Seconds between the events that carried tokens."""
    events: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    counted_by: str = ""
    """Who counted the tokens: usage (the server), tokenizer (ours), events (one each)."""
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    error: RequestError | None = None
    detail: str = ""
    retry_after: float | None = None

    def fail(self, error: RequestError, detail: str, now: float) -> None:
        """It failed, now."""
        self.error, self.detail, self.end = error, detail[:300], now


def request_columns(outcomes: Sequence[Outcome], started: float) -> RequestTimes:
    """The wire's columns; `started` is the clock at the start of the allocation."""

    def since(instant: float | None) -> float | None:
        return None if instant is None else max(0.0, instant - started)

    return RequestTimes(
        arrival_seconds=[max(0.0, outcome.due - started) for outcome in outcomes],
        first_token_seconds=[since(outcome.first) for outcome in outcomes],
        end_seconds=[since(outcome.end) for outcome in outcomes],
        input_tokens=[outcome.input_tokens for outcome in outcomes],
        cached_input_tokens=[min(outcome.cached_tokens, outcome.input_tokens) for outcome in outcomes],
        output_tokens=[outcome.output_tokens for outcome in outcomes],
        error=[outcome.error for outcome in outcomes] if any(outcome.error for outcome in outcomes) else [],
    )
