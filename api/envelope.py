"""What every request and answer carries: an id, headers of safety, a line in the log, a limit of rate."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import internal_error, problem

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_QUIET = {"/healthz", "/readyz", "/metrics"}
_MOST_CLIENTS = 10_000
_BURST_SECONDS = 2.0
# An answer of the API is data: nothing in it runs, loads or is framed, and nobody keeps a copy. Pages say otherwise.
_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class EnvelopeMiddleware:
    """The outermost layer. `requests_per_second` is for each client (its key and address); 0 is no limit."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        requests_per_second: float,
        log_all: bool,
        secure: bool,
        count: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._log_all, self._count = app, log_all, count
        self._rates = _Rates(requests_per_second) if requests_per_second else None
        self._safety = _SAFETY | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                for name, value in self._safety.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            await self._inner(scope, headers)(scope, receive, sent)
        except Exception as error:
            answer = internal_error(error, request_id)
            if not status:  # else the client has half an answer, and the connection has to end
                await answer(scope, receive, sent)
            else:
                raise
        finally:
            status = status or 499  # the client went away before there was an answer
            seconds = time.perf_counter() - begun
            self._count(scope["method"], status, seconds)
            self._log(scope, status, seconds)

    def _inner(self, scope: Scope, headers: Headers) -> ASGIApp:
        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
            return problem(422, "the address holds the character NUL", slug="invalid-value", where="path or query")
        wait = self._rates.wait_seconds(_client(scope, headers), time.monotonic()) if self._rates else 0.0
        if wait:
            return problem(
                429,
                "too many requests from this client",
                hint=f"wait {wait:.0f} s; TOKENSTONE_MAX_REQUESTS_PER_SECOND is the limit",
                headers={"Retry-After": f"{wait:.0f}", "Connection": "close"},
            )
        return self._app

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        # The query is left out: it may hold names that are nobody's business.
        told = {"method": scope["method"], "path": scope["path"][:200], "status": status, "seconds": round(seconds, 4)}
        if key := scope["state"].get("key"):
            told["key"] = key
        if status >= 500:
            log.error("request failed", **told)
        elif status >= 400:
            log.warning("request refused", **told)
        elif self._log_all and scope["path"] not in _QUIET:
            log.info("request", **told)


def _client(scope: Scope, headers: Headers) -> str:
    address = scope["client"][0] if scope.get("client") else "unix"
    key = headers.get("authorization", "")
    return f"{address} {hashlib.sha256(key.encode()).hexdigest()[:16] if key else ''}"


class _Rates:
    """Token buckets, the least recently used forgotten first."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._burst = per_second, max(1.0, per_second * _BURST_SECONDS)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, client: str, now: float) -> float:
        """Take one token: 0, or whole seconds to wait where there is none."""
        tokens, since = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        enough = tokens >= 1
        self._buckets[client] = (tokens - 1 if enough else tokens, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if enough else max(1.0, (1 - tokens) / self._per_second)
