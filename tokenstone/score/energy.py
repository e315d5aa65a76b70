"""Joules of a run's devices, by their own counters.

Joules = the sum of each device's counter increments over the windows whose middle lies inside the run. It is a figure
of the run only if every device was read from the run's start to its end without holes: what was used in a hole is in
no window, and would make the run look thrifty.

Worked example: windows of 1 s, each of 350 J, over a run of 20 s are 7,000 J; without the last five there is no figure.

>>> from tokenstone.wire import WindowRow
>>> def read(second):
...     return WindowRow(
...         metric="accel_energy_joules_total", device="GPU-0", node="n", labels={}, start_unix_seconds=second,
...         duration_seconds=1, count=1, mean=None, minimum=None, maximum=None, delta=350.0,
...     )
>>> energy([read(s) for s in range(20)], [("n", "GPU-0")], start=0, end=20)
(7000.0, None)
>>> energy([read(s) for s in range(15)], [("n", "GPU-0")], start=0, end=20)
(None, 'not covered')
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from tokenstone.wire import WindowRow

METRIC = "accel_energy_joules_total"
GAP_SECONDS = 3.0
"""Longest gap between the run's edge and a reading (InferenceX takes 3 s too)."""
COVERAGE = 0.98
"""Least share of the run, but for the gaps at its edges, for which each device must have been read."""

Missing = Literal["no counter", "not covered"]


def energy(
    windows: Iterable[WindowRow], devices: Sequence[tuple[str, str]], *, start: float, end: float
) -> tuple[float | None, Missing | None]:
    """Joules of the devices (node, device) from `start` to `end` (Unix seconds), or what is missing.

    Windows may reach beyond the run.
    """
    read: dict[tuple[str, str], list[WindowRow]] = defaultdict(list)
    for window in windows:
        if window.metric == METRIC and window.delta is not None:
            read[(window.node, window.device)].append(window)
    inside = {
        device: [w for w in read[device] if start <= w.start_unix_seconds + w.duration_seconds / 2 <= end]
        for device in devices
    }
    if not all(inside.values()):
        return None, "no counter"
    if not all(_covers(read[device], start, end) for device in devices):
        return None, "not covered"
    return sum(w.delta or 0.0 for rows in inside.values() for w in rows), None


def _covers(rows: Sequence[WindowRow], start: float, end: float) -> bool:
    spans = [(w.start_unix_seconds, w.start_unix_seconds + w.duration_seconds) for w in rows]
    reaches = min(a for a, _ in spans) <= start + GAP_SECONDS and max(b for _, b in spans) >= end - GAP_SECONDS
    seconds = sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans)
    return reaches and seconds >= COVERAGE * (end - start) - 2 * GAP_SECONDS
