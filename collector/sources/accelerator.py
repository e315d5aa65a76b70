"""What the sources of accelerators have in common: devices as some tool or library found them, made into readings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from collector.sources.base import Parts, SourceUnavailable
from tokenstone.sample import Absence, DeviceInfo, Reading, labels

MEBIBYTE = 1 << 20

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Found:
    """One device and what is known of it; a value that is None, not finite or below zero was no number."""

    id: str
    vendor: str
    model: str
    index: int
    values: dict[tuple[str, Labels], float] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    """Reasons for metrics that are missing, where the device gave one."""

    def put(self, metric: str, value: float | None, factor: float = 1.0, /, **by: str) -> None:
        """Keep `value` times `factor` under `metric` with these labels."""
        if value is not None and math.isfinite(value) and value >= 0:
            self.values[metric, labels(by)] = value * factor


def make_parts(found: Sequence[Found], metrics: Iterable[str], teller: str) -> Parts:
    """Return what was found as Parts: every metric of `metrics` that a device lacks is absent, with the reason.

    `teller` is the tool or library; SourceUnavailable where it found no device.
    """
    if not found:
        raise SourceUnavailable(f"{teller}: it finds no device")
    readings: list[Reading] = []
    absences: list[Absence] = []
    devices: list[DeviceInfo] = []
    for device in found:
        readings += [Reading(metric, value, device.id, by) for (metric, by), value in device.values.items()]
        given = {metric for metric, _ in device.values}
        absences += [
            Absence(metric, device.why.get(metric, f"{teller}: it gives no number"), device.id)
            for metric in metrics
            if metric not in given
        ]
        total = device.values.get(("accel_memory_total_bytes", ()))
        devices.append(
            DeviceInfo(
                id=device.id,
                kind="accelerator",
                vendor=device.vendor,
                model=device.model,
                index=device.index,
                memory_bytes=None if total is None else int(total),
            )
        )
    return Parts(tuple(readings), tuple(absences), tuple(devices))


def number(text: str) -> float | None:
    """Return the number that `text` begins with, whatever unit follows; None where it is N/A, `-` or other words.

    >>> number("54W"), number(" 37.5 C"), number("N/A"), number("-")
    (54.0, 37.5, None, None)
    """
    digits = text.strip().removesuffix("%").split(maxsplit=1)
    if not digits:
        return None
    word = digits[0].rstrip("%CWMHzibB")
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
