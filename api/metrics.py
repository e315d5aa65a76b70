"""The service's own `/metrics`: what it took in, and what its store keeps (api/stored_metrics.py)."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.store.engine import Store
from api.stored_metrics import StoredMetrics

SHARED_BY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client's processes find each other."""
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ServiceMetrics:
    """Counters of this process (of all workers, where there are several), and gauges read from the store."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        shared = CollectorRegistry()
        self._registry = CollectorRegistry() if SHARED_BY in os.environ else shared
        self.batches = Counter(
            "tokenstone_ingest_batches",
            "Batches of windows, by what became of them.",
            ["status"],
            registry=shared,
        )
        for status in ("accepted", "duplicate"):
            self.batches.labels(status)
        self.windows = Counter("tokenstone_ingest_windows", "Windows taken in.", registry=shared)
        self.requests = Counter(
            "tokenstone_http_requests",
            "Requests answered, by method and status.",
            ["method", "status"],
            registry=shared,
        )
        self.seconds = Histogram(
            "tokenstone_http_request_duration_seconds", "How long an answer took.", registry=shared, buckets=_BUCKETS
        )
        if self._registry is not shared:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(StoredMetrics(store, clock))

    def count_request(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = method if method in _METHODS else "other"  # a method is the client's text: it must not make series
        self.requests.labels(known, str(status)).inc()
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
