"""What a source is, and how one is read so that its failure stays its own.

A source reads one thing of the node and says what it found: readings, and a reason for everything that it could
not give. Files are read below `root`, the folder that stands for `/`; parsing is a function of text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from collector.clock import Clock
from tokenstone.metric import REGISTRY
from tokenstone.sample import Absence, DeviceInfo, Reading, Sample, labels


class SourceUnavailable(Exception):
    """The source as a whole cannot be read, and why. The text is stable: it becomes a label."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one reading of a source gave."""

    readings: tuple[Reading, ...] = ()
    absences: tuple[Absence, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()
    held: tuple[Reading, ...] = ()
    """Readings of an earlier time that are still shown: a source that asks for some things less often keeps them."""


class Source(Protocol):
    """One thing of the node that can be read again and again, by one thread at a time."""

    name: str
    metrics: tuple[str, ...]
    """What it gives where all is well; all of it is absent, with the reason, while the source fails."""
    measures: bool = False
    """It asks a driver or runs a tool. Such sources are read one after another, so that they do not disturb each
    other, and let go of the device on request (`close`; the next `read` takes it again). All others only read files."""
    every_seconds: float = 0.0
    """Not read more often than this; its last sample is shown meanwhile. 0 is at every tick."""
    deadline_seconds: float = 5.0
    """A reading that takes longer counts as failed until it returns."""

    def read(self) -> Parts:
        """Read it now. May raise anything: `take` turns that into a failed sample."""
        ...

    def close(self) -> None:
        """Release what the source holds: handles, files, the driver. Reading it again takes them anew."""
        return

    def doing(self) -> str:
        """Say what a reading that does not return is waiting for, or nothing. Called from another thread."""
        return ""


def read_text(root: Path, path: str) -> str:
    """Return the text of the file `path` (relative) below `root`; raises OSError.

    Bytes that are not UTF-8 are replaced: a device may call itself anything.
    """
    return (root / path).read_text(encoding="utf-8", errors="replace")


def take(source: Source, clock: Clock) -> Sample:
    """Read `source` once. Never raises: a failure is a sample that says so, with every metric absent."""
    unix_seconds, start = clock.unix(), clock.monotonic()
    try:
        parts = source.read()
        _check(parts.readings)
        _check(parts.held)
    except Exception as error:
        sample = failed(source, clock, _reason(error))
        return replace(sample, monotonic_seconds=start, duration_seconds=clock.monotonic() - start)
    return Sample(
        source.name,
        start,
        unix_seconds,
        readings=parts.readings,
        absences=parts.absences,
        devices=parts.devices,
        held=parts.held,
        duration_seconds=clock.monotonic() - start,
    )


def failed(source: Source, clock: Clock, reason: str) -> Sample:
    """Return the sample of a source that could not be read, with every metric absent for `reason`."""
    absences = tuple(Absence(metric, reason) for metric in source.metrics)
    return Sample(source.name, clock.monotonic(), clock.unix(), error=reason, absences=absences)


@cache
def _source_labels(source: str) -> tuple[tuple[str, str], ...]:
    return labels(source=source)


def health_readings(sample: Sample) -> tuple[Reading, ...]:
    """Return what a sample says about its source: whether it is up, and how long reading it took."""
    by = _source_labels(sample.source)
    return (
        Reading("tokenstone_source_up", float(sample.error is None), labels=by),
        Reading("tokenstone_source_duration_seconds", sample.duration_seconds, labels=by),
    )


_checked: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
_MOST_CHECKED = 100_000


def _check(readings: tuple[Reading, ...]) -> None:
    """Refuse what the registry does not know: it would break the scrape and the windows of all sources."""
    for name, _, _, by in readings:
        if (name, by) in _checked:
            continue
        metric = REGISTRY.get(name)
        if metric is None:
            raise SourceUnavailable(f"the source gave {name!r}, which is not in the registry")
        if len(by) != len(metric.labels) or {label for label, _ in by} != set(metric.labels):
            raise SourceUnavailable(f"the source gave {name!r} without exactly the labels {metric.labels}")
        if len(_checked) >= _MOST_CHECKED:  # pods and jobs come and go for months
            _checked.clear()
        _checked.add((name, by))


def _reason(error: Exception) -> str:
    if isinstance(error, SourceUnavailable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"
