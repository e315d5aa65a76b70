"""What a source says when it is read: readings, and reasons for what it cannot give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

HOST = "host"
"""The device id of what belongs to the whole node."""


class Reading(NamedTuple):
    """One value of one metric, in the registry's unit. `device` is a device id or HOST."""

    metric: str
    value: float
    device: str = HOST
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def series(self) -> SeriesKey:
        """What identifies the time series this reading belongs to."""
        return SeriesKey(self.metric, self.device, self.labels)


class SeriesKey(NamedTuple):
    """The identity of a time series on one node."""

    metric: str
    device: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Absence:
    """A metric that a source cannot give here, and why. Absent is never zero."""

    metric: str
    reason: str
    device: str = HOST


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as its driver names it. `id` is stable over restarts (a UUID where there is one)."""

    id: str
    kind: str
    vendor: str
    model: str
    index: int = 0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """All that one source said at one instant. `monotonic_seconds` is for durations, `unix_seconds` for labels.

    `held` are readings of an earlier instant that the source does not take every time: they are still shown, and
    enter no window again.
    """

    source: str
    monotonic_seconds: float
    unix_seconds: float
    readings: tuple[Reading, ...] = ()
    absences: tuple[Absence, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()
    error: str | None = None
    duration_seconds: float = 0.0
    held: tuple[Reading, ...] = ()


def labels(values: Mapping[str, str] | None = None, /, **more: str) -> tuple[tuple[str, str], ...]:
    """Return labels in their canonical (sorted) form.

    >>> labels(link="nvlink", direction="rx")
    (('direction', 'rx'), ('link', 'nvlink'))
    """
    return tuple(sorted({**(values or {}), **more}.items()))


__all__ = ["HOST", "Absence", "DeviceInfo", "Reading", "Sample", "SeriesKey", "labels"]
