"""The routes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from tokenstone import __version__
from workloads.serving import errors
from workloads.serving.body import BodyLimit
from workloads.serving.engine_thread import EngineFailed, EngineThread
from workloads.serving.generation import Generator, Piece, Running
from workloads.serving.metrics import ServingMetrics
from workloads.serving.protocol import ChatRequest, CompletionRequest, Generation
from workloads.serving.stream import EventStream, until_gone

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default for completions; a chat goes on to the end of the context."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How one of the two protocols writes an answer down."""

    prefix: str
    whole: str
    chunk: str
    chat: bool

    def choice(self, index: int, text: str, reason: str | None, *, streamed: bool, first: bool) -> dict[str, Any]:
        """One choice of an answer or of a chunk of it."""
        ends = {"index": index, "logprobs": None, "finish_reason": reason}
        if not self.chat:
            return {"text": text, **ends}
        role = {"role": "assistant"} if first or not streamed else {}
        return {"delta" if streamed else "message": {**role, "content": text}, **ends}


COMPLETION = Shape("cmpl", "text_completion", "text_completion", chat=False)
CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)


def create_app(  # noqa: PLR0915  each route is short
    engine: EngineThread, generator: Generator, metrics: ServingMetrics, model: str
) -> FastAPI:
    """The application; it starts and stops the engine's thread."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    app = FastAPI(title="Tokenstone reference engine", version=__version__, lifespan=lifespan, redirect_slashes=False)
    app.add_middleware(BodyLimit, limit_bytes=generator.limits.body_bytes)
    errors.install(app)
    created = int(time.time())

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether requests are served."""
        if engine.failure is not None:
            raise errors.ApiError(503, f"the engine has failed: {engine.failure}", kind="server_error")
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def scrape() -> Response:
        """Counters and gauges for Prometheus."""
        try:
            return Response(metrics.text(await engine.statistics()), media_type=CONTENT_TYPE_LATEST)
        except EngineFailed as error:
            raise errors.ApiError(503, f"the engine has failed: {error}", kind="server_error") from error

    def card() -> dict[str, Any]:
        limits = {"max_model_len": generator.limits.context}
        return {"id": model, "object": "model", "created": created, "owned_by": "tokenstone", "root": model, **limits}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [card()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """The model by its name."""
        check_model(name)
        return card()

    def check_model(name: str) -> None:
        if name != model:
            raise errors.ApiError(
                404, f"The model `{name}` does not exist; this server has `{model}`.", code="model_not_found",
                param="model",
            )  # fmt: skip

    async def answer(
        shape: Shape, asked: Generation, prompts: Sequence[str | list[int]], default: int | None, request: Request
    ) -> Response:
        check_model(asked.model)
        asked.check()
        ids = [generator.encode(prompt) for prompt in prompts]
        generator.check_room(len(ids))
        label = request.headers.get("x-request-id", "")[:200]
        running: list[Running] = []
        try:
            for prompt in ids:
                running.append(generator.start(prompt, asked, default_tokens=default, label=label))
        except errors.ApiError:
            give_up(running)
            raise
        head = {"id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        if asked.stream:
            return EventStream(_chunks(generator, shape, asked, running, head), lambda: give_up(running))
        work = asyncio.gather(*(_collect(generator, one) for one in running))
        pieces = await until_gone(request, work, lambda: give_up(running))
        if pieces is None:
            return Response(status_code=499)  # nobody reads it
        choices = []
        for index, (text, token_ids, reason) in enumerate(pieces):
            choice = shape.choice(index, text, reason, streamed=False, first=True)
            choices.append(choice | ({"token_ids": token_ids} if asked.return_token_ids else {}))
        return JSONResponse({**head, "object": shape.whole, "choices": choices, "usage": _usage(running)})

    def give_up(running: Sequence[Running]) -> None:
        for one in running:
            generator.cancel(one)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Go on from a text or from ids of tokens."""
        return await answer(COMPLETION, asked, asked.prompts, DEFAULT_COMPLETION_TOKENS, request)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await answer(CHAT, asked, [asked.prompt_text], None, request)

    return app


async def _collect(generator: Generator, running: Running) -> tuple[str, list[int], str | None]:
    texts: list[str] = []
    token_ids: list[int] = []
    reason = None
    async for piece in generator.pieces(running):
        texts.append(piece.text)
        token_ids += piece.token_ids
        reason = piece.finish_reason
    return "".join(texts), token_ids, reason


async def _chunks(
    generator: Generator, shape: Shape, asked: Generation, running: Sequence[Running], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The messages of a stream: the pieces of all answers as they come, then the usage if it is wanted."""
    head = {**head, "object": shape.chunk}
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
    nothing = {"usage": None} if wants_usage else {}
    begun: set[int] = set()
    async for index, piece in _merged(generator, running):
        choice = shape.choice(index, piece.text, piece.finish_reason, streamed=True, first=index not in begun)
        begun.add(index)
        if asked.return_token_ids:
            choice["token_ids"] = piece.token_ids
        yield {**head, "choices": [choice], **nothing}
    if wants_usage:
        yield {**head, "choices": [], "usage": _usage(running)}


async def _merged(generator: Generator, running: Sequence[Running]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several answers in the order in which they come."""
    if len(running) == 1:
        async for piece in generator.pieces(running[0]):
            yield 0, piece
        return
    pieces: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def follow(index: int, one: Running) -> None:
        try:
            async for piece in generator.pieces(one):
                pieces.put_nowait((index, piece))
            pieces.put_nowait((index, None))
        except errors.ApiError as error:
            pieces.put_nowait((index, error))

    tasks = [asyncio.create_task(follow(index, one)) for index, one in enumerate(running)]
    try:
        left = len(tasks)
        while left:
            index, found = await pieces.get()
            if found is None:
                left -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield index, found
    finally:
        for task in tasks:
            task.cancel()


def _usage(running: Sequence[Running]) -> dict[str, Any]:
    """The usage of all answers together."""
    read, written = sum(one.prompt_tokens for one in running), sum(one.generated for one in running)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached for one in running)},
    }
