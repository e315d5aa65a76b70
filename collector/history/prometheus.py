"""The HTTP API of Prometheus, and of what speaks it (Thanos, Mimir, VictoriaMetrics): as much of it as we need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tokenstone.errors import InvalidFile, KeyNeeded, NotAllowed, OperationError, ServiceUnreachable, UsageError

_ENVIRONMENT = "TOKENSTONE_PROMETHEUS_"
Labels = Mapping[str, str]


def secret(name: str) -> str | None:
    """TOKENSTONE_PROMETHEUS_NAME, or what is in the file that ..._NAME_FILE names; raises InvalidFile."""
    value = os.environ.get(_ENVIRONMENT + name)
    path = os.environ.get(f"{_ENVIRONMENT}{name}_FILE")
    if value or not path:
        return value or None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile("cannot be read", where=path, hint=f"check {_ENVIRONMENT}{name}_FILE") from error


class Prometheus:
    """One server. `timeout`: the most seconds that one answer may take.

    A bearer token comes from TOKENSTONE_PROMETHEUS_TOKEN, a name and password from ..._USER and ..._PASSWORD; each also
    as ..._FILE. Raises UsageError for both at once, ServiceUnreachable for what is no URL.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        token, user, password = secret("TOKEN"), secret("USER"), secret("PASSWORD")
        if token and (user or password):
            raise UsageError("a token and a name for Prometheus", hint=f"set one of {_ENVIRONMENT}TOKEN and ..USER")
        auth = httpx.BasicAuth(user, password or "") if user else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url, timeout=timeout, headers=headers, auth=auth, follow_redirects=True
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ServiceUnreachable(f"not a URL, or no possible token: {error}", where=self.url) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def series(self, selectors: list[str], start: float, end: float) -> list[Labels]:
        """The series that match any selector between two instants (Unix seconds)."""
        found: list[Labels] = self._ask("series", {"match[]": selectors, "start": f"{start:.3f}", "end": f"{end:.3f}"})
        return found

    def range(
        self, query: str, start: float, end: float, step: float
    ) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """The values of an expression at `start`, `start + step`, ... up to `end`, by series."""
        data = self._ask(
            "query_range", {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        )
        if not isinstance(data, dict) or data.get("resultType") != "matrix":
            raise ServiceUnreachable("the answer holds no matrix", where=self.url, hint="is it a Prometheus?")
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one.get("values", [])])
            for one in data["result"]
        ]

    def _ask(self, what: str, form: dict[str, Any]) -> Any:
        path = f"/api/v1/{what}"
        try:
            response = self._http.post(path, data=form)
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(
                "Prometheus does not answer in time", where=self.url, hint="give a longer --timeout or --step"
            ) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnreachable(
                f"Prometheus does not answer: {reason}", where=self.url, hint="check the address"
            ) from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            hint = f"set {_ENVIRONMENT}TOKEN, or ..USER and ..PASSWORD"
            raise KeyNeeded("Prometheus asks who we are", where=self.url, hint=hint)
        if response.status_code == httpx.codes.FORBIDDEN:
            raise NotAllowed("Prometheus does not allow it", where=self.url)
        try:
            answer = response.json()
            status = answer["status"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnreachable(
                f"what answers is no Prometheus (status {response.status_code})", where=f"{self.url}{path}",
                hint="give the address up to /api, not that of Grafana",
            ) from error  # fmt: skip
        if status != "success":
            raise OperationError(
                f"Prometheus refuses: {answer.get('error', 'without a reason')}", where=self.url,
                hint="a longer --step or a shorter time asks for less" if response.is_server_error else "",
            )  # fmt: skip
        return answer["data"]
