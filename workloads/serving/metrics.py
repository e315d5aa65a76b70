"""What the server says of itself on /metrics, in Prometheus's text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from workloads.inference.iteration import EngineStatistics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_PREFIX = "tokenstone_serving"


class ServingMetrics:
    """Counts in the event loop; the engine's own state is read when somebody scrapes."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", text, ["model"], registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}", text, ["model"], buckets=_SECONDS, registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", text, ["model", *labels], registry=self._registry)

        self._gauges = {
            "running": gauge("requests_running", "Requests that the engine computes."),
            "waiting": gauge("requests_waiting", "Requests that wait for a place."),
            "cache": gauge("cache_usage_ratio", "Pages of the cache that requests hold, of all pages."),
        }
        self._totals = {
            "prompt_tokens": counter("prompt_tokens", "Tokens of prompts, cached ones included."),
            "cached_prompt_tokens": counter("cached_prompt_tokens", "Tokens of prompts found in the cache."),
            "generated_tokens": counter("generation_tokens", "Tokens generated."),
            "preemptions": counter("preemptions", "Requests put back to be computed again."),
            "drafted_tokens": counter("drafted_tokens", "Tokens guessed by multi-token prediction."),
            "accepted_tokens": counter("accepted_tokens", "Guesses that proved right."),
        }
        self._known = dict.fromkeys(self._totals, 0)
        self._first = histogram("time_to_first_token_seconds", "From the arrival to the first token.")
        self._next = histogram("inter_token_latency_seconds", "Between two tokens of an answer.")
        self._whole = histogram("request_duration_seconds", "From the arrival to the last token.")
        self._finished = counter("requests_finished", "Requests that ended, by why.", "reason")
        self._refused = counter("requests_refused", "Requests that were not taken on, by why.", "reason")

    def token(self, seconds: float, first: bool) -> None:
        """A token came, so many seconds after the arrival (the first) or after the one before."""
        (self._first if first else self._next).labels(self._model).observe(seconds)

    def finished(self, reason: str, seconds: float | None) -> None:
        """A request ended; `seconds` from its arrival, None where its client went away."""
        self._finished.labels(self._model, reason).inc()
        if seconds is not None:
            self._whole.labels(self._model).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was not taken on."""
        self._refused.labels(self._model, reason).inc()

    def text(self, engine: EngineStatistics) -> bytes:
        """The page."""
        self._gauges["running"].labels(self._model).set(engine.running)
        self._gauges["waiting"].labels(self._model).set(engine.waiting)
        self._gauges["cache"].labels(self._model).set(engine.pages_used / engine.pages)
        for name, counter in self._totals.items():
            total = int(getattr(engine, name))
            counter.labels(self._model).inc(total - self._known[name])
            self._known[name] = total
        return generate_latest(self._registry)
