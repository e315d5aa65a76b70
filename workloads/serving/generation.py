"""One request through the engine: from a prompt to pieces of text, whatever becomes of the client meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from workloads.inference.request import Output, Request, Sampling
from workloads.serving.engine_thread import Answer, EngineFailed, EngineThread
from workloads.serving.errors import ApiError, too_long
from workloads.serving.metrics import ServingMetrics
from workloads.serving.protocol import Generation
from workloads.serving.text import TextStream


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server takes on."""

    context: int
    most_active: int
    """Requests that wait or run; above it, 429."""
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one iteration added to an answer."""

    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass(slots=True)
class Running:
    """An answer under way."""

    answer: Answer
    prompt_tokens: int
    text: TextStream
    generated: int = 0
    cached: int = 0


class Generator:
    """Starts requests and follows them."""

    def __init__(
        self, engine: EngineThread, tokenizer: Tokenizer, vocabulary: Sequence[bytes], limits: Limits,
        metrics: ServingMetrics, *, keep_labels: bool = False,
    ) -> None:  # fmt: skip
        self._engine, self._tokenizer, self._vocabulary = engine, tokenizer, vocabulary
        self.limits, self._metrics = limits, metrics
        self._keep_labels = keep_labels
        self.labels: dict[int, str] = {}
        """What clients called their requests, by the engine's id; kept for a run's record only."""

    def encode(self, prompt: str | list[int]) -> list[int]:
        """Ids of a prompt. Raises ApiError for one that is empty or not of this vocabulary."""
        ids = list(self._tokenizer.encode(prompt).ids) if isinstance(prompt, str) else prompt
        if not ids:
            raise ApiError(400, "the prompt is empty", param="prompt")
        if max(ids) >= len(self._vocabulary):
            raise ApiError(400, f"token {max(ids)} of a vocabulary of {len(self._vocabulary)}", param="prompt")
        return ids

    def check_room(self, requests: int) -> None:
        """Raise ApiError 429 where the server has all that it can take on."""
        if self._engine.active + requests > self.limits.most_active:
            self._metrics.refused("overloaded")
            raise ApiError(
                429, f"{self._engine.active} requests are waiting or running: try again later", retry_after=1,
                kind="rate_limit_error", code="rate_limit_exceeded",
            )  # fmt: skip

    def start(self, prompt: list[int], asked: Generation, *, default_tokens: int | None, label: str) -> Running:
        """Hand a request to the engine. Raises ApiError where it does not fit the context or the engine is gone."""
        left = self.limits.context - len(prompt)
        wanted = asked.max_tokens or min(default_tokens or left, left)
        if len(prompt) + max(wanted, 1) > self.limits.context:
            self._metrics.refused("context")
            raise too_long(len(prompt), max(wanted, 1), self.limits.context)
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(temperature, asked.top_p or 1.0, asked.seed)
        try:
            answer = self._engine.submit(
                lambda name: Request(name, prompt, wanted, sampling, ignore_end=bool(asked.ignore_eos))
            )
        except EngineFailed as error:
            raise ApiError(503, f"the engine has failed: {error}", kind="server_error") from error
        if label and self._keep_labels:
            self.labels[answer.id] = label
        return Running(answer, len(prompt), TextStream(self._vocabulary, asked.stops))

    async def pieces(self, running: Running) -> AsyncIterator[Piece]:
        """Follow an answer to its end. However it is left, the engine holds nothing for it afterwards."""
        last = None
        try:
            while True:
                output = await running.answer.outputs.get()
                if isinstance(output, Exception):
                    raise _refusal(output)
                piece = self._piece(running, output)
                now = time.monotonic()
                if piece.token_ids:
                    self._metrics.token(now - running.answer.submitted if last is None else now - last, last is None)
                    last = now
                yield piece
                if piece.finish_reason is not None:
                    self._metrics.finished(piece.finish_reason, now - running.answer.submitted)
                    return
        finally:
            self._engine.cancel(running.answer)

    def cancel(self, running: Running) -> None:
        """Its client has gone."""
        self._engine.cancel(running.answer)
        self._metrics.finished("abort", None)

    def _piece(self, running: Running, output: Output) -> Piece:
        running.generated += len(output.token_ids)
        running.cached = output.cached_prompt_tokens
        reason = output.finish_reason
        text = running.text.add(output.token_ids, last=reason is not None)
        return Piece(text, output.token_ids, "stop" if running.text.ended else reason)


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, EngineFailed):
        return ApiError(500, f"the engine has failed: {error}", kind="server_error")
    return ApiError(400, str(error), code="context_length_exceeded", param="prompt")
