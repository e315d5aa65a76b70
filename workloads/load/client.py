"""One request to an OpenAI-compatible endpoint, streamed and timed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import aiohttp
from yarl import URL

from tokenstone.wire import RequestError
from workloads.load.events import EventBuffer
from workloads.load.outcome import Outcome
from workloads.load.prompts import Prompt, PromptSource

Api = Literal["completions", "chat"]

_CONTEXT = re.compile(r"context.{0,20}(length|window|size)|max_model_len|maximum context|too (long|many tokens)", re.I)
_NO_ROUTE = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. The key is sent and never shown."""

    url: str
    """Base, with /v1."""
    model: str
    api: Api | None = None
    """None: completions, and chat where there is no such route."""
    key: str | None = None
    temperature: float = 0.0
    timeout_seconds: float = 120.0
    token_ids: bool = False
    """Whether the endpoint is ours: it sends the ids of tokens along, and stops at nothing."""


def base_url(given: str) -> str:
    """http://host:port and http://host:port/v1 are the same endpoint."""
    stripped = given.rstrip("/")
    return stripped if stripped.endswith("/v1") else f"{stripped}/v1"


class Client:
    """Sends requests and times them; every failure is an outcome, and nothing is raised for one."""

    def __init__(self, endpoint: Endpoint, prompts: PromptSource) -> None:
        self._endpoint, self._prompts = endpoint, prompts
        self._api: Api = endpoint.api or "completions"
        self._may_switch = endpoint.api is None
        # Made once: parsing a URL anew for each request is a tenth of a client's time.
        self._urls: dict[Api, URL] = {
            "completions": URL(f"{endpoint.url}/completions"),
            "chat": URL(f"{endpoint.url}/chat/completions"),
        }
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._endpoint.timeout_seconds)
        headers = {"Content-Type": "application/json"}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    @property
    def api(self) -> Api:
        """The route in use."""
        return self._api

    async def send(
        self, parts: Sequence[Prompt], output_tokens: int, due: float, request_id: str, seed: int
    ) -> Outcome:
        """Make one request and wait for its end. `parts`: what user and model said in turn, the user first and last."""
        outcome = Outcome(due, sent=time.monotonic())
        try:
            await self._attempt(outcome, parts, output_tokens, request_id, seed)
        except TimeoutError:
            outcome.fail("timeout", f"no end after {self._endpoint.timeout_seconds:g} s", time.monotonic())
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ClientConnectorDNSError) as error:
            outcome.fail("connect", self._safe(error), time.monotonic())
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError) as error:
            outcome.fail("closed", f"the connection was closed: {self._safe(error)}", time.monotonic())
        except (aiohttp.ClientError, ValueError, AttributeError, TypeError) as error:
            outcome.fail("malformed", self._safe(error), time.monotonic())
        except asyncio.CancelledError:
            outcome.fail("stopped", "the run was ended", time.monotonic())
        return outcome

    async def _attempt(
        self, outcome: Outcome, parts: Sequence[Prompt], output_tokens: int, request_id: str, seed: int
    ) -> None:
        assert self._session is not None
        api = self._api
        body = json.dumps(self._body(api, parts, output_tokens, seed)).encode()
        async with self._session.post(self._urls[api], data=body, headers={"X-Request-Id": request_id}) as response:
            if response.status in _NO_ROUTE and self._may_switch and api == "completions":
                detail = (await response.read())[:10_000]
                if not _speaks_of_model(detail.decode("utf-8", "replace")):
                    self._api = "chat"
            elif response.status == 200:
                self._may_switch = False
                await self._read(response, outcome)
                return
            else:
                await self._refused(response, outcome)
                return
        if self._api != api:
            await self._attempt(outcome, parts, output_tokens, request_id, seed)
        else:
            outcome.fail("wrong_model", self._safe(detail.decode("utf-8", "replace")), time.monotonic())

    def _body(self, api: Api, parts: Sequence[Prompt], output_tokens: int, seed: int) -> dict[str, Any]:
        endpoint = self._endpoint
        body: dict[str, Any] = {
            "model": endpoint.model,
            "max_tokens": output_tokens,
            "temperature": endpoint.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Not OpenAI's, but vLLM's and SGLang's: the answer is as long as it was asked to be.
            "ignore_eos": True,
        }
        if endpoint.temperature > 0:
            body["seed"] = seed
        if endpoint.token_ids:
            body["return_token_ids"] = True
        if api == "completions":
            body["prompt"] = self._prompts.join(parts)
        else:
            roles = ("user", "assistant")
            body["messages"] = [{"role": roles[turn % 2], "content": part} for turn, part in enumerate(parts)]
        return body

    async def _read(self, response: aiohttp.ClientResponse, outcome: Outcome) -> None:
        if response.content_type == "application/json":  # an endpoint that does not stream: first and last are one
            _Answer(outcome).take_event(await response.read(), time.monotonic())
            answer_ended = True
        else:
            answer, buffer = _Answer(outcome), EventBuffer()
            async for received in response.content.iter_any():
                now = time.monotonic()
                for data in buffer.feed(received):
                    answer.take_event(data, now)
                if answer.failed:
                    return
            answer_ended = answer.ended
        now = time.monotonic()
        if not answer_ended:
            outcome.fail("closed", "the stream ended before the answer did", now)
        elif outcome.first is None:
            outcome.fail("empty", "the answer has no token", now)
        elif not outcome.counted_by:
            count = self._prompts.count(outcome.text)
            outcome.output_tokens = outcome.events if count is None else count
            outcome.counted_by = "events" if count is None else "tokenizer"

    async def _refused(self, response: aiohttp.ClientResponse, outcome: Outcome) -> None:
        text = (await response.content.read(20_000)).decode("utf-8", "replace")
        error = classify(response.status, text)
        if error == "rate_limited":
            outcome.retry_after = _seconds(response.headers.get("Retry-After"))
        outcome.fail(error, f"HTTP {response.status}: {self._safe(_message(text))}", time.monotonic())

    def _safe(self, error: object) -> str:
        """The text of an error on one line, the key taken out should the endpoint have said it."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text


class _Answer:
    """Takes the messages of one answer in and keeps their times."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.ended = False
        self.failed = False

    def take_event(self, data: bytes, now: float) -> None:
        """Take one event of a stream. Raises ValueError where it is none of this protocol."""
        if data.strip() == b"[DONE]":
            self.ended = True
            return
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError(f"an event that is no object: {data[:60]!r}")
        if message.get("error"):
            text = json.dumps(message["error"])
            code = message["error"].get("code") if isinstance(message["error"], dict) else None
            status = code if isinstance(code, int) else 500
            self._outcome.fail(classify(status, text), _message(text), now)
            self.failed = True
            return
        self.take(message, now)

    def take(self, message: dict[str, Any], now: float) -> None:
        """Take one message: tokens, the reason of the end, the usage."""
        outcome = self._outcome
        for choice in message.get("choices") or []:
            part = choice.get("delta") or choice.get("message") or {}
            text = choice.get("text") or part.get("content") or ""
            thought = part.get("reasoning_content") or part.get("reasoning") or ""
            ids = choice.get("token_ids") or []
            ended = choice.get("finish_reason") is not None
            if text or thought or ids or part.get("tool_calls"):
                if outcome.first is None:
                    outcome.first = now
                else:
                    outcome.gaps.append(now - (outcome.end or now))
                outcome.end = now
                outcome.events += 1
                outcome.text += text
                outcome.token_ids += ids
            self.ended = self.ended or ended
        usage = message.get("usage")
        if usage:
            outcome.input_tokens = int(usage.get("prompt_tokens") or 0)
            outcome.output_tokens = int(usage.get("completion_tokens") or 0)
            outcome.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            outcome.counted_by = "usage"


def classify(status: int, text: str) -> RequestError:
    """What a refusal means."""
    if status == 429:
        return "rate_limited"
    if status >= 500:
        return "server_error"
    if "context_length_exceeded" in text or _CONTEXT.search(text):
        return "context_exceeded"
    return "wrong_model" if _speaks_of_model(text) else "refused"


def _speaks_of_model(text: str) -> bool:
    lower = text.lower()
    return "model_not_found" in lower or ("model" in lower and ("not exist" in lower or "not found" in lower))


def _message(text: str) -> str:
    """The message of an OpenAI-shaped error, else the text."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        return str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        return text


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None  # an HTTP date, which no endpoint of this kind sends
