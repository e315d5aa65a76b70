"""The service's own `/metrics`: what it took in, and the latest score and cost of every spec."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.store.engine import Store
from api.store.evaluations import latest_by_spec
from api.store.runs import count_by_state

_LABELS = ("cluster", "kind", "preset", "spec_id")


class ServiceMetrics:
    """Counters of this process, and gauges read from the store at each scrape."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self.batches = Counter(
            "tokenstone_ingest_batches",
            "Batches of windows, by what became of them.",
            ["status"],
            registry=self._registry,
        )
        for status in ("accepted", "duplicate"):
            self.batches.labels(status)
        self.windows = Counter("tokenstone_ingest_windows", "Windows taken in.", registry=self._registry)
        self._registry.register(_Stored(store))

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
