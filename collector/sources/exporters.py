"""Exporters that a site already runs, dcgm-exporter and node_exporter, scraped and mapped to Tokenstone's names.

So no second agent has to hold the device. Their text is Prometheus' format, which Prometheus' own library parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from collector.sources.base import Parts, Source, SourceUnavailable

_DEADLINE_SECONDS = 3.0
_MOST_BYTES = 16 << 20

# What NVIDIA's DCGM writes where a value is blank, not found, not supported or not permitted: the largest numbers of
# 32 and 64 bits less a few, and the same as floating point. Nothing that is measured comes near.
_BLANKS_32 = range(0x7FFFFFF0, 0x80000000)
_BLANK_64 = 9.2e18
_BLANK_FLOAT = 140737488355328.0


def is_blank(value: float) -> bool:
    """Return whether a sample is a mark for `no value` and not a value.

    >>> is_blank(140737488355330.0), is_blank(9223372036854775794.0), is_blank(float("nan")), is_blank(350.5)
    (True, True, True, False)
    """
    return (
        value != value  # noqa: PLR0124  # NaN is what differs from itself
        or value >= _BLANK_64
        or _BLANK_FLOAT <= value < _BLANK_FLOAT + 16
        or value in _BLANKS_32
    )


def fetch(url: str, deadline_seconds: float = _DEADLINE_SECONDS) -> str:
    """Return the text of an exporter; raises SourceUnavailable where it does not answer, or not with text."""
    request = Request(url, headers={"Accept": "text/plain; version=0.0.4"})  # noqa: S310  # the settings take http only
    try:
        with urlopen(request, timeout=deadline_seconds) as response:  # noqa: S310
            body: bytes = response.read(_MOST_BYTES)
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SourceUnavailable(f"{url}: {getattr(reason, 'strerror', None) or reason}") from None
    return body.decode("utf-8", "replace")


def parse(url: str, text: str) -> dict[str, Family]:
    """Parse an exporter's text to families by the names of their samples; raises SourceUnavailable."""
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError) as error:
        raise SourceUnavailable(f"{url}: its answer is not Prometheus' text format ({error})") from None
    if not families:
        raise SourceUnavailable(f"{url}: it gives no metrics")
    return {sample.name: family for family in families for sample in family.samples}


class ExporterSource(Source):
    """One exporter, and what turns its families into Parts."""

    def __init__(
        self,
        name: str,
        url: str,
        metrics: Iterable[str],
        to_parts: Callable[[Mapping[str, Family]], Parts],
        get: Callable[[str], str] = fetch,
    ) -> None:
        self.name, self.metrics = name, tuple(metrics)
        self._url, self._to_parts, self._get = url, to_parts, get

    def read(self) -> Parts:
        """Scrape it; raises SourceUnavailable."""
        return self._to_parts(parse(self._url, self._get(self._url)))
