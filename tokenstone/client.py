"""The typed client of the service, over HTTP. Synchronous and small; agents, workloads and users share it.

    with Client("http://127.0.0.1:8470") as client:
        client.create_run(run)

Every method raises ServiceUnreachable where nobody answers as Tokenstone does, and ServiceRefused with the
service's own words where it refuses. Nothing is tried twice: who calls knows what is worth a second attempt.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, RootModel, ValidationError

from tokenstone.cluster_report import ClusterReport
from tokenstone.compare import Comparison
from tokenstone.cost import PriceBook
from tokenstone.errors import InvalidFile, ServiceRefused, ServiceUnreachable
from tokenstone.evaluate import Evaluation
from tokenstone.fleet import Fleet
from tokenstone.report import Report
from tokenstone.run import RunState
from tokenstone.wire import (
    METRICS_ADDRESS,
    AuditEntry,
    ClusterPrice,
    Facts,
    InferenceFacts,
    IngestAnswer,
    KeyCreate,
    KeyMade,
    KeyView,
    NodeView,
    Page,
    PriceChoice,
    Problem,
    RunChange,
    RunCreate,
    RunView,
    TrainingFacts,
    WindowRow,
)

Answer = TypeVar("Answer", bound=BaseModel)
_PAUSE_SECONDS = 0.05
_PAGE = 500


API_KEY, API_KEY_FILE = "TOKENSTONE_API_KEY", "TOKENSTONE_API_KEY_FILE"


def api_key_from_environment() -> str | None:
    """The key that the environment gives, itself or in a file; raises InvalidFile for a file that cannot be read."""
    key = os.environ.get(API_KEY, "").strip()
    path = os.environ.get(API_KEY_FILE, "").strip()
    if key or not path:
        return key or None
    try:
        return Path(path).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile("the API key cannot be read", where=path, hint=f"check {API_KEY_FILE}") from error


class Client:
    """A service at `base_url`; `timeout` is the most seconds that one answer may take.

    Without `api_key`, the key is that of the environment (`TOKENSTONE_API_KEY`, or the file that
    `TOKENSTONE_API_KEY_FILE` names), if there is one. Raises ServiceUnreachable for what is no URL, InvalidFile for a
    key that cannot be read.
    """

    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        api_key = api_key or api_key_from_environment()
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(base_url=self.base_url, timeout=timeout, headers=headers)
        except UnicodeEncodeError as error:
            raise InvalidFile("an API key holds ASCII alone", where=API_KEY, hint="copy it anew") from error
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(f"not a URL: {error}", where=self.base_url) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- telemetry

    def announce(self, metrics_address: str) -> None:
        """Say with every batch where the agent serves `/metrics`: HOST:PORT, or :PORT for the address it sends from."""
        self._http.headers[METRICS_ADDRESS] = metrics_address

    def push_windows(self, batch_json: bytes) -> IngestAnswer:
        """Hand over a WindowBatch, as gzip of its JSON."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return self._ask(IngestAnswer, "POST", "/v1/windows", content=batch_json, headers=headers)

    def windows(self, **wanted: str | float) -> Iterator[WindowRow]:
        """All windows that match: `cluster`, `node`, `device`, `metric`, `start` and `end` (Unix seconds).

        With `step` (seconds), one row for each step; with `aggregation="cluster"`, one for all series of a metric.
        """
        return self._pages(Page[WindowRow], "/v1/windows", wanted)

    def nodes(self, *, cluster: str | None = None) -> Iterator[NodeView]:
        """All nodes that have sent windows."""
        return self._pages(Page[NodeView], "/v1/nodes", {"cluster": cluster})

    # --- runs

    def create_run(self, run: RunCreate) -> RunView:
        """Create a run, or find the one that the same request made before."""
        return self._send(RunView, "POST", "/v1/runs", run)

    def change_run(self, run_id: str, change: RunChange) -> RunView:
        """Move a run on, or keep it alive with its present state."""
        return self._send(RunView, "POST", _run(run_id, "/state"), change)

    def put_facts(self, run_id: str, facts: TrainingFacts | InferenceFacts) -> RunView:
        """Tell what a running run did, which ends it."""
        return self._send(RunView, "PUT", _run(run_id, "/facts"), facts)

    def run(self, run_id: str) -> RunView:
        """One run as it stands."""
        return self._ask(RunView, "GET", _run(run_id))

    def runs(
        self, *, state: RunState | None = None, cluster: str | None = None, spec_id: str | None = None
    ) -> Iterator[RunView]:
        """All runs, the newest first."""
        return self._pages(Page[RunView], "/v1/runs", {"state": state, "cluster": cluster, "spec_id": spec_id})

    def facts(self, run_id: str) -> TrainingFacts | InferenceFacts:
        """What a run did, as its workload told it."""
        return self._ask(RootModel[Facts], "GET", _run(run_id, "/facts")).root

    # --- results

    def score(self, run_id: str) -> Evaluation:
        """The latest evaluation of a run."""
        return self._ask(Evaluation, "GET", _run(run_id, "/score"))

    def score_run(self, run_id: str, price: PriceChoice, *, idempotency_key: str | None = None) -> Evaluation:
        """Score a run again, with the windows and the price of now. A key makes a second attempt harmless."""
        return self._send(Evaluation, "POST", _run(run_id, "/scores"), price, idempotency_key)

    def compare(self, a: Sequence[str], b: Sequence[str]) -> Comparison:
        """Compare the runs of b with those of a; a side may be one published result, `published:KEY`."""
        return self._ask(Comparison, "GET", "/v1/comparisons", params={"a": list(a), "b": list(b)})

    def add_price_book(self, book: PriceBook) -> PriceBook:
        """Add a version of a price book."""
        return self._send(PriceBook, "POST", "/v1/price-books", book)

    def report(self, run_ids: Sequence[str]) -> Report:
        """The report on some runs, as data."""
        return self._ask(Report, "GET", "/v1/reports", params={"run": list(run_ids)})

    def report_html(self, run_ids: Sequence[str]) -> str:
        """The report on some runs, as a page."""
        return self._request("GET", "/v1/reports/html", params={"run": list(run_ids)}).text

    def cluster_report(self, cluster: str) -> ClusterReport:
        """The report on a cluster by its workloads, as data."""
        return self._ask(ClusterReport, "GET", "/v1/reports/cluster", params={"cluster": cluster})

    def cluster_html(self, cluster: str) -> str:
        """The report on a cluster, as a page."""
        return self._request("GET", "/v1/reports/cluster/html", params={"cluster": cluster}).text

    # --- the fleet

    def fleet(self, **wanted: str | float | date | None) -> Fleet:
        """How device-hours were spent, in money: `cluster`, `start` and `end` (days).

        A price instead of the clusters' own is `usd_per_device_hour`, or `price_book` with or without `price_row`.
        """
        params = {name: str(value) for name, value in wanted.items() if value is not None}
        return self._ask(Fleet, "GET", "/v1/fleet", params=params)

    def set_cluster_price(self, price: ClusterPrice) -> ClusterPrice:
        """Price a cluster's devices from a day on."""
        return self._send(ClusterPrice, "PUT", "/v1/cluster-prices", price)

    # --- administration

    def create_key(self, wanted: KeyCreate, *, idempotency_key: str | None = None) -> KeyMade:
        """Create an API key; the answer is the only place that ever holds it."""
        return self._send(KeyMade, "POST", "/v1/keys", wanted, idempotency_key)

    def keys(self) -> Iterator[KeyView]:
        """All keys, the newest first, revoked ones too."""
        return self._pages(Page[KeyView], "/v1/keys", {})

    def revoke_key(self, prefix: str) -> KeyView:
        """Revoke a key for good."""
        return self._ask(KeyView, "DELETE", f"/v1/keys/{quote(prefix, safe='')}")

    def audit(self) -> Iterator[AuditEntry]:
        """What administrators did, the newest first."""
        return self._pages(Page[AuditEntry], "/v1/audit", {})

    # --- operation

    def wait_ready(self, timeout_seconds: float) -> None:
        """Return as soon as the service is ready; after the timeout raise what was wrong last."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                self._request("GET", "/readyz")
            except (ServiceUnreachable, ServiceRefused):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    # --- HTTP

    def _send(
        self, model: type[Answer], method: str, path: str, body: BaseModel, idempotency_key: str | None = None
    ) -> Answer:
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._ask(model, method, path, content=body.model_dump_json().encode(), headers=headers)

    def _pages(self, model: type[Page[Answer]], path: str, wanted: Mapping[str, Any]) -> Iterator[Answer]:
        params = {name: value for name, value in wanted.items() if value is not None} | {"limit": _PAGE}
        while True:
            page = self._ask(model, "GET", path, params=params)
            yield from page.items
            if page.next_cursor is None:
                return
            params["cursor"] = page.next_cursor

    def _ask(self, model: type[Answer], method: str, path: str, **request: Any) -> Answer:
        response = self._request(method, path, **request)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise self._stranger(response, path) from error

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnreachable(
                f"the service does not answer: {reason}", where=self.base_url, hint="is `tokenstone serve` running?"
            ) from error
        if response.is_success:
            return response
        raise self._refusal(response, path)

    def _refusal(self, response: httpx.Response, path: str) -> ServiceRefused | ServiceUnreachable:
        try:
            problem = Problem.model_validate(json.loads(response.content))
        except ValueError:
            return self._stranger(response, path)
        what, field = problem.detail or problem.title, (problem.model_extra or {}).get("where")
        return ServiceRefused(
            f"{field}: {what}" if field else what,
            status=response.status_code,
            where=f"{self.base_url}{path}",
            hint=problem.hint,
        )

    def _stranger(self, response: httpx.Response, path: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"what answers is not Tokenstone, or another version of it (status {response.status_code})",
            where=f"{self.base_url}{path}",
            hint="check the address",
        )


def _run(run_id: str, part: str = "") -> str:
    return f"/v1/runs/{quote(run_id, safe='')}{part}"
