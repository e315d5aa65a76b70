"""The latest samples as Prometheus' text, rendered at most once per tick.

A failed source drops its own series, and says why; nothing stale is shown. A series' name and labels are rendered
once; from then on a tick costs a look-up and a number for each.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence

from collector.clock import Clock
from collector.sources.base import health_readings
from tokenstone.metric import REGISTRY
from tokenstone.sample import HOST, Reading, Sample, labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, str, _Labels]


class Exposition:
    """The latest samples of all sources as text. `update` is the loop's; `body` may be called by any thread."""

    def __init__(self, node: str, clock: Clock, *, stale_seconds: float) -> None:
        self._node, self._clock, self._stale_seconds = node, clock, stale_seconds
        self._guard = threading.Lock()
        self._samples: Sequence[Sample] = ()
        self._last_success: dict[str, float] = {}
        self._ticked_at: float | None = None
        self._started_at = clock.monotonic()
        self._body: bytes | None = None
        # The order of the last body: each series' text up to its value, with the family's head before its first.
        self._layout: list[tuple[_Key, str]] = []
        self._laid_out: frozenset[_Key] = frozenset()

    def update(self, samples: Sequence[Sample]) -> None:
        """Show these samples from now on."""
        with self._guard:
            self._samples, self._body = tuple(samples), None
            for sample in samples:
                if sample.error is None:
                    self._last_success[sample.source] = sample.unix_seconds
            self._ticked_at = self._clock.monotonic()

    def not_ready_reason(self) -> str | None:
        """Return why there is nothing to scrape yet, or nothing to be believed; None where there is."""
        if self._ticked_at is None:
            return "starting: nothing has been sampled yet"
        return self.unhealthy_reason()

    def unhealthy_reason(self) -> str | None:
        """Return why the agent should be restarted, or None."""
        last = self._started_at if self._ticked_at is None else self._ticked_at
        if self._clock.monotonic() - last > self._stale_seconds:
            return f"the sampling loop has not ticked for more than {self._stale_seconds:g} s"
        return None

    def body(self) -> bytes:
        """Return the text of the latest tick; scrapes that come together share one rendering."""
        with self._guard:
            if self._body is None:
                self._body = self._render()
            return self._body

    def _render(self) -> bytes:
        values: dict[_Key, float] = {}
        for readings in self._readings():
            for metric, value, device, by in readings:
                if math.isfinite(value):
                    values[metric, device, by] = value
        if values.keys() != self._laid_out:
            self._lay_out(values)
        return "".join([f"{text}{values[key]!r}\n" for key, text in self._layout]).encode()

    def _lay_out(self, keys: Iterable[_Key]) -> None:
        """Order the series: families as the registry has them, and within one by device and labels."""
        self._laid_out = frozenset(keys)
        ranks = {name: rank for rank, name in enumerate(REGISTRY)}
        self._layout, family = [], ""
        for key in sorted(self._laid_out, key=lambda key: (ranks[key[0]], *key[1:])):
            metric = REGISTRY[key[0]]
            head = "" if metric.name == family else (
                f"# HELP {metric.name} {_escaped_help(metric.help)}\n# TYPE {metric.name} {metric.kind}\n"
            )  # fmt: skip
            family = metric.name
            by = sorted({"node": self._node, "device": key[1], **dict(key[2])}.items())
            names = ",".join(f'{name}="{_escaped(text)}"' for name, text in by)
            self._layout.append((key, f"{head}{metric.name}{{{names}}} "))

    def _readings(self) -> Iterator[Iterable[Reading]]:
        for sample in self._samples:
            yield sample.readings
            yield sample.held
            yield health_readings(sample)
            yield self._about(sample)

    def _about(self, sample: Sample) -> Iterator[Reading]:
        success = self._last_success.get(sample.source)
        if success is not None:
            by = labels(source=sample.source)
            yield Reading("tokenstone_source_last_success_timestamp_seconds", success, labels=by)
        for info in sample.devices:
            if info.id != HOST:
                by = labels(vendor=info.vendor, model=info.model, index=str(info.index))
                yield Reading("accel_info", 1.0, info.id, by)
        for absence in sample.absences:
            by = labels(source=sample.source, metric=absence.metric, reason=absence.reason)
            yield Reading("tokenstone_metric_absent", 1.0, absence.device, by)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
