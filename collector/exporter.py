"""`/metrics` in Prometheus' text format, rendered at most once per tick, and `/healthz`.

A failed source drops its own series, and says why; nothing stale is shown. Before the first tick, and when the
loop has stopped ticking, both answer 503.
"""

from __future__ import annotations

import errno
import math
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from collector.clock import Clock
from collector.config import ListenAddress
from collector.sources.base import health_readings
from tokenstone.errors import InvalidValue, PortInUse
from tokenstone.metric import REGISTRY, Kind
from tokenstone.sample import HOST, Reading, Sample, SeriesKey, labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition(Collector):
    """The latest samples of all sources as text. `update` is the loop's; `body` may be called by any thread."""

    def __init__(self, node: str, clock: Clock, *, stale_seconds: float) -> None:
        self._node, self._clock, self._stale_seconds = node, clock, stale_seconds
        self._guard = threading.Lock()
        self._samples: Sequence[Sample] = ()
        self._last_success: dict[str, float] = {}
        self._ticked_at: float | None = None
        self._body: bytes | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def update(self, samples: Sequence[Sample]) -> None:
        """Show these samples from now on."""
        with self._guard:
            self._samples, self._body = tuple(samples), None
            self._last_success |= {sample.source: sample.unix_seconds for sample in samples if sample.error is None}
            self._ticked_at = self._clock.monotonic()

    def unhealthy_reason(self) -> str | None:
        """Return why what we have should not be believed, or None."""
        if self._ticked_at is None:
            return "starting: nothing has been sampled yet"
        if self._clock.monotonic() - self._ticked_at > self._stale_seconds:
            return f"the sampling loop has not ticked for more than {self._stale_seconds:g} s"
        return None

    def body(self) -> bytes:
        """Return the text of the latest tick; scrapes that come together share one rendering."""
        with self._guard:
            if self._body is None:
                self._body = generate_latest(self._registry)
            return self._body

    def describe(self) -> Iterable[Family]:
        """Nothing is known before the first tick."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield the families in the registry's order."""
        by_metric: dict[str, dict[SeriesKey, float]] = {}
        for reading in self._readings():
            if math.isfinite(reading.value):
                by_metric.setdefault(reading.metric, {})[reading.series] = reading.value
        for name, metric in REGISTRY.items():
            series = by_metric.get(name)
            if not series:
                continue
            names = ["node", "device", *sorted(metric.labels)]
            make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = make(name, metric.help, labels=names)
            for key, value in sorted(series.items(), key=lambda item: (item[0].device, item[0].labels)):
                family.add_metric([self._node, key.device, *(text for _, text in key.labels)], value)
            yield family

    def _readings(self) -> Iterator[Reading]:
        for sample in self._samples:
            yield from sample.readings
            yield from health_readings(sample)
            if sample.source in self._last_success:
                yield Reading(
                    "tokenstone_source_last_success_timestamp_seconds",
                    self._last_success[sample.source],
                    labels=labels(source=sample.source),
                )
            for info in sample.devices:
                if info.id != HOST:
                    by = labels(vendor=info.vendor, model=info.model, index=str(info.index))
                    yield Reading("accel_info", 1.0, info.id, by)
            for absence in sample.absences:
                by = labels(source=sample.source, metric=absence.metric, reason=absence.reason)
                yield Reading("tokenstone_metric_absent", 1.0, absence.device, by)


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = 10.0
    """A client that connects and says nothing is let go."""

    def do_GET(self) -> None:
        """Answer `/metrics` and `/healthz`."""
        path = self.path.partition("?")[0]
        if path not in {"/metrics", "/healthz"}:
            self._answer(HTTPStatus.NOT_FOUND, b"try /metrics or /healthz\n")
            return
        reason = self.server.exposition.unhealthy_reason()
        if reason is not None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())
        else:
            self._answer(HTTPStatus.OK, self.server.exposition.body() if path == "/metrics" else b"ok\n")

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line each."""


class MetricsServer(ThreadingHTTPServer):
    """Serves an exposition on a thread of its own. Raises PortInUse, or InvalidValue for an impossible address."""

    daemon_threads = True

    def __init__(self, listen: ListenAddress, exposition: Exposition) -> None:
        self.exposition = exposition
        self.address_family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            super().__init__((listen.host, listen.port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    "another program listens there", where=str(listen), hint="stop it, or give another --listen"
                ) from None
            raise InvalidValue(
                f"cannot listen: {error.strerror}", where=str(listen), hint="give another --listen"
            ) from None
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="tokenstone-metrics", daemon=True
        )

    def start(self) -> ListenAddress:
        """Begin to serve; return the address, with the port where any was asked for."""
        self._thread.start()
        host, port = self.server_address[:2]
        return ListenAddress(str(host), int(port))

    def stop(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self._thread.join()
        self.server_close()
