"""The agent's own small client of the service: one request, over a connection that stays open.

Workloads and users have `tokenstone.client`. The agent does without it, because httpx and pydantic together would
take as much memory as all that it measures with. Connects directly: it knows no proxies.
"""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from tokenstone.errors import ServiceRefused, ServiceUnreachable

_PATH = "/v1/windows"
_LONGEST_ANSWER = 1_000_000
_LONGEST_WINDOW_SECONDS = 1e6


class PushAnswer(NamedTuple):
    """What the service says to a batch."""

    status: Literal["accepted", "duplicate"]
    window_seconds: float
    server_unix_seconds: float | None = None


class AgentClient:
    """The service at `base_url`. Not safe for two threads at a time."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = 30.0) -> None:
        self._url = base_url.rstrip("/")
        parts = urlsplit(self._url)
        make: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            make = http.client.HTTPSConnection
        self._connection = make(parts.hostname or "", parts.port, timeout=timeout)
        self._path = parts.path + _PATH
        self._headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "User-Agent": "tokenstone"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def announce(self, metrics_address: str) -> None:
        """Say with every batch where `/metrics` is served: HOST:PORT, or :PORT for the address it is sent from."""
        self._headers["Tokenstone-Metrics-Address"] = metrics_address

    def push_windows(self, batch_json: bytes) -> PushAnswer:
        """Hand over gzip'ed JSON of a WindowBatch; raises ServiceUnreachable, or ServiceRefused with the status."""
        try:
            self._connection.request("POST", self._path, batch_json, self._headers)
            response = self._connection.getresponse()
            body = response.read(_LONGEST_ANSWER)
            if not response.isclosed():
                self._connection.close()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceUnreachable(
                f"the service does not answer: {str(error) or type(error).__name__}", where=self._url
            ) from error
        if response.status == HTTPStatus.OK:
            return self._answer(body)
        raise self._refusal(response, body)

    def _answer(self, body: bytes) -> PushAnswer:
        try:
            answer = json.loads(body)
            status, window_seconds = answer["status"], float(answer["window_seconds"])
            now = answer.get("server_unix_seconds")
            unix_seconds = None if now is None else float(now)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._stranger(HTTPStatus.OK) from error
        if status not in {"accepted", "duplicate"} or not 0 < window_seconds < _LONGEST_WINDOW_SECONDS:
            raise self._stranger(HTTPStatus.OK)
        return PushAnswer(status, window_seconds, unix_seconds)

    def _refusal(self, response: http.client.HTTPResponse, body: bytes) -> ServiceRefused | ServiceUnreachable:
        try:
            problem: Any = json.loads(body)
            what = str(problem.get("detail") or problem["title"])
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not our service's words: a proxy's, say. Whatever it is, the batch has not been refused.
            if response.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return self._stranger(response.status)
            what = "the body is too long"
        refusal = ServiceRefused(what, status=response.status, where=f"{self._url}{_PATH}")
        after = response.headers.get("Retry-After", "")
        if after.isdigit():
            refusal.retry_after_seconds = float(after)
        return refusal

    def _stranger(self, status: int) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"what answers is not Tokenstone, or another version of it (status {status})",
            where=f"{self._url}{_PATH}",
            hint="check the address",
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
