"""Answers to clients that may go away: as soon as one does, what was computed for it is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from workloads.serving.errors import ApiError

T = TypeVar("T")
_DONE = b"data: [DONE]\n\n"


def event(message: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def until_gone(request: Request, work: Awaitable[T], give_up: Callable[[], None]) -> T | None:
    """Wait for `work`; None, after `give_up`, where the client went away before."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request.receive))
    await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    give_up()
    return None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends messages as server-sent events, [DONE] at the end; an error amid the stream is its last message."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncIterator[dict[str, Any]], give_up: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._messages, self._give_up = messages, give_up

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or stop where the client goes away."""
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(_gone(receive))
        await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if not sending.done():
            sending.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await sending
            return
        self._give_up()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._messages) as messages:  # type: ignore[type-var]
            try:
                async for message in messages:
                    await send({"type": "http.response.body", "body": event(message), "more_body": True})
            except ApiError as error:
                await send({"type": "http.response.body", "body": event(error.body), "more_body": True})
        await send({"type": "http.response.body", "body": _DONE, "more_body": False})
