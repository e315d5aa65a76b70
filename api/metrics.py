"""The service's own `/metrics`: what it took in, and the latest score and cost of every spec."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.store.engine import Store
from api.store.evaluations import latest_by_spec
from api.store.runs import count_by_state

SHARED_BY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client's processes find each other."""
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LABELS = ("cluster", "kind", "preset", "spec_id")


class ServiceMetrics:
    """Counters of this process (of all workers, where there are several), and gauges read from the store."""

    def __init__(self, store: Store) -> None:
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
        self._registry.register(_Stored(store))

    def count_request(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = method if method in _METHODS else "other"  # a method is the client's text: it must not make series
        self.requests.labels(known, str(status)).inc()
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Stored(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[GaugeMetricFamily]:
        """Name nothing beforehand, so that registering does not read the store."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the latest figures. A figure that is absent has no sample: absent is never zero."""
        runs = GaugeMetricFamily("tokenstone_runs", "Runs by state.", labels=["cluster", "state"])
        score = GaugeMetricFamily(
            "tokenstone_run_score", "Score of the latest evaluated run of a spec, of 100.", labels=_LABELS
        )
        usd = GaugeMetricFamily(
            "tokenstone_run_usd_per_million_tokens", "Cost of a million tokens in that run, if priced.", labels=_LABELS
        )
        seconds = GaugeMetricFamily(
            "tokenstone_run_device_seconds_per_million_tokens", "Device-seconds of a million tokens.", labels=_LABELS
        )
        with self._store.reading() as session:
            counts, figures = count_by_state(session), latest_by_spec(session)
        for cluster, state, count in counts:
            runs.add_metric([cluster, state], count)
        for found in figures:
            labels = [found.run.cluster, found.run.spec.kind, found.run.spec.preset, found.run.spec_id]
            for family, value in (
                (score, found.score),
                (usd, found.usd_per_million_tokens),
                (seconds, found.device_seconds_per_million_tokens),
            ):
                if value is not None:
                    family.add_metric(labels, value)
        yield from (runs, score, usd, seconds)
