"""Pressure stall information: how long tasks waited for processor, memory or storage (/proc/pressure)."""

from __future__ import annotations

from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import Absence, Reading, labels

_WAITING = "host_pressure_waiting_seconds_total"
_STALLED = "host_pressure_stalled_seconds_total"


def parse_pressure(text: str) -> dict[str, float]:
    """Parse one file of /proc/pressure to the total seconds of `some` and `full`, as far as it has them.

    >>> parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\\n")
    {'some': 1.5}
    """
    seconds: dict[str, float] = {}
    for line in text.splitlines():
        kind = line.partition(" ")[0]
        value = line.partition(" total=")[2].partition(" ")[0]
        if kind in {"some", "full"} and value.isdigit():
            seconds[kind] = int(value) / 1e6
    return seconds


class PressureSource(Source):
    """Time lost to waiting, by resource."""

    name = "pressure"
    metrics = (_WAITING, _STALLED)

    def __init__(self, root: Path) -> None:
        self._files = Files(root)

    def read(self) -> Parts:
        """Read the totals. A kernel without them is no failure: they are absent, with the reason."""
        readings: list[Reading] = []
        reasons: list[tuple[str, str]] = []
        for resource in ("cpu", "io", "memory"):
            try:
                seconds = parse_pressure(self._files.text(f"proc/pressure/{resource}"))
            except OSError as error:
                # Switched off at boot, the files are missing or cannot be read, depending on the kernel.
                reason = f"{resource}: no pressure stall information in this kernel ({error.strerror})"
                reasons += [(_WAITING, reason), (_STALLED, reason)]
                continue
            kinds = [("some", _WAITING)]
            if resource == "cpu":
                # The kernel shows a zero for it that means nothing: processors never stall all tasks of a system.
                reasons.append((_STALLED, "cpu: not defined for a whole system"))
            else:
                kinds.append(("full", _STALLED))
            for kind, metric in kinds:
                if kind in seconds:
                    readings.append(Reading(metric, seconds[kind], labels=labels(resource=resource)))
                else:
                    reasons.append((metric, f"{resource}: the kernel gives no total of {kind!r}"))
        return Parts(tuple(readings), tuple(Absence(metric, reason) for metric, reason in reasons))

    def close(self) -> None:
        """Close the files."""
        self._files.close()
