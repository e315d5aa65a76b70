"""An OpenAI-compatible endpoint whose latencies are written down beforehand, to check a load generator against.

    python -m workloads.load.scripted '[{"ttft_seconds": 0.05, "gap_seconds": 0.01, "tokens": 8}, {"status": 429}]'

Request i gets line i of the script, and from the last on the first again. It prints {"url": ...} and serves until its
stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Line(BaseModel):
    """What one request gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_seconds: float = Field(default=0.0, ge=0)
    gap_seconds: float = Field(default=0.0, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    """Default: as many as were asked for."""
    status: int = 200
    retry_after: str | None = None
    message: str = "as the script says"
    code: str | None = None
    stream: Literal["whole", "cut", "garbage", "json_garbage", "silent", "no_usage", "error"] = "whole"
    """`cut`: the connection ends half way; `garbage`: no events; `silent`: nothing ever comes; `error`: an error
    amid the stream."""


class ScriptedEndpoint:
    """Serves a script and counts what it was asked."""

    def __init__(
        self, script: list[Line], *, routes: tuple[str, ...] = ("completions", "chat/completions"), exact: bool = False
    ) -> None:
        """`exact`: spin through the last two milliseconds before an instant, because timers are rounded to one."""
        self._script, self._exact = script, exact
        self.requests: list[dict[str, Any]] = []
        self.app = web.Application(client_max_size=256 * 2**20)
        for route in routes:
            self.app.router.add_post(f"/v1/{route}", self._answer)
        self.app.router.add_get("/v1/models", self._models)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        line = self._script[len(self.requests) % len(self._script)]
        body = await request.json()
        self.requests.append(body)
        if line.status != 200:
            headers = {"Retry-After": line.retry_after} if line.retry_after else {}
            error = {"message": line.message, "type": "scripted", "code": line.code}
            return web.json_response({"error": error}, status=line.status, headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if line.stream == "silent":
            await asyncio.sleep(3600)
        tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        await self._stream(response, line, line.tokens if line.tokens is not None else tokens, arrived, request)
        return response

    async def _stream(
        self, response: web.StreamResponse, line: Line, tokens: int, arrived: float, request: web.Request
    ) -> None:
        chat = request.path.endswith("chat/completions")
        for number in range(tokens):
            due = arrived + line.ttft_seconds + number * line.gap_seconds
            await self._until(due)
            if number == tokens // 2 and line.stream != "whole" and await self._fault(response, line, request):
                return
            ended = "length" if number == tokens - 1 else None
            part = {"delta": {"content": " word"}} if chat else {"text": " word"}
            await _event(response, {"choices": [{"index": 0, **part, "finish_reason": ended}]})
        if line.stream != "no_usage":
            usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
            await _event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")

    async def _until(self, due: float) -> None:
        pause = due - time.monotonic() - (0.002 if self._exact else 0.0)
        if pause > 0:
            await asyncio.sleep(pause)
        while self._exact and time.monotonic() < due:
            await asyncio.sleep(0)

    async def _fault(self, response: web.StreamResponse, line: Line, request: web.Request) -> bool:
        """Do what the script has planned half way; return whether that is the end."""
        match line.stream:
            case "cut":
                assert request.transport is not None
                request.transport.close()
            case "garbage":
                await response.write(b"<html>a proxy's error page</html>\n\n")
            case "json_garbage":
                await response.write(b'data: {"choices": [{"text"\n\n')
            case "error":
                await _event(response, {"error": {"message": line.message, "code": line.code or 500}})
            case _:
                return False
        return True


async def _event(response: web.StreamResponse, message: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(message | {"object": "chunk", "model": "scripted"}).encode() + b"\n\n")


async def _serve(script: list[Line]) -> None:
    runner = web.AppRunner(ScriptedEndpoint(script, exact=True).app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    lines = TypeAdapter(list[Line]).validate_json(sys.argv[1])
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(_serve(lines))
    else:
        uvloop.run(_serve(lines))
