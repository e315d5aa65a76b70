"""What one device's time went to, from its trace.

Everything is a union of intervals over all streams: two kernels at once count once. `compute` is every device event
that is not communication, copies and fills included; `exposed` communication is that behind which nothing computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tokenstone.trace.columns import DeviceColumns, FileColumns
from tokenstone.trace.gaps import gap_causes
from tokenstone.trace.intervals import Intervals, joined, overlap, union
from tokenstone.trace.kernels import COMMUNICATION, MEMORY


@dataclass(slots=True)
class DeviceTrace:
    """Times of one device in microseconds."""

    name: str
    """As in "rank0", "rank0:1" for device 1 of a rank with several, "file0" where no rank is known."""
    rank: int | None
    basis: str
    """"device": from what the device ran. "host": there were no device events, so from the host's operators."""
    span_us: float
    busy_us: float
    compute_us: float
    copy_only_us: float
    """The part of `compute_us` in which only copies and fills ran; other tools leave it out."""
    communication_us: float
    overlap_us: float
    exposed_communication_us: float
    idle_us: float
    idle_by_cause_us: dict[str, float]
    kernels_us: dict[str, float]
    """Summed duration by class; streams overlap, so it can be more than the span."""
    kernels: int
    start_us: float
    """First event, on the trace's own clock."""
    compute: Intervals
    collectives: list[Collective] = field(default_factory=list)
    waiting_us: float | None = None
    """Exposed communication that was waiting for slower ranks; None where it cannot be known."""

    def figures(self) -> dict[str, object]:
        """What is public, as plain JSON."""
        hidden = {"compute", "collectives"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in hidden}


@dataclass(frozen=True, slots=True)
class Collective:
    """One communication kernel, as it is matched across ranks."""

    group: str
    start: float
    end: float


def analyse_file(columns: FileColumns, number: int = 0) -> list[DeviceTrace]:
    """Analyse each device of a file; the host alone where no device ran anything. `number`: of the file."""
    name = f"file{number}" if columns.rank is None else f"rank{columns.rank}"
    if not columns.devices:
        return [_host(columns, name)]
    several = len(columns.devices) > 1
    return [
        _device(columns, device, f"{name}:{label}" if several else name)
        for label, device in sorted(columns.devices.items())
    ]


def _device(columns: FileColumns, device: DeviceColumns, name: str) -> DeviceTrace:
    starts, ends = device.spans.arrays()
    kinds: NDArray[np.int16] = np.array(device.kinds)
    communicates = np.array([kind == COMMUNICATION for kind in columns.kinds])[kinds]
    busy = union(starts, ends)
    compute = union(starts[~communicates], ends[~communicates])
    communication = union(starts[communicates], ends[communicates])
    trace = _divided(columns, name, busy, compute, communication)
    trace.idle_by_cause_us = gap_causes(
        busy, starts, columns.launches(device.correlations), columns.synchronisations.union(), columns.inputs.union()
    )
    durations = ends - starts
    trace.kernels_us = {kind: float(durations[kinds == n].sum()) for n, kind in enumerate(columns.kinds)}
    is_copy = np.array([kind == MEMORY for kind in columns.kinds])[kinds]
    trace.copy_only_us = compute.length - union(starts[~communicates & ~is_copy], ends[~communicates & ~is_copy]).length
    trace.kernels = len(starts)
    trace.collectives = _collectives(device, starts, ends, communicates)
    return trace


def _host(columns: FileColumns, name: str) -> DeviceTrace:
    communication, compute = columns.host_communication.union(), columns.host_operators.union()
    busy = joined(communication, compute)
    trace = _divided(columns, name, busy, compute, communication)
    trace.basis = "host"
    fetching = overlap(columns.inputs.union(), busy.gaps())
    trace.idle_by_cause_us = {"input": fetching, "host": trace.idle_us - fetching}
    trace.kernels = len(columns.host_operators.starts)
    return trace


def _divided(
    columns: FileColumns, name: str, busy: Intervals, compute: Intervals, communication: Intervals
) -> DeviceTrace:
    span = float(busy.ends[-1] - busy.starts[0])
    both = overlap(compute, communication)
    return DeviceTrace(
        name=name,
        rank=columns.rank,
        basis="device",
        span_us=span,
        busy_us=busy.length,
        compute_us=compute.length,
        copy_only_us=0.0,
        communication_us=communication.length,
        overlap_us=both,
        exposed_communication_us=communication.length - both,
        idle_us=span - busy.length,
        idle_by_cause_us={},
        kernels_us={},
        kernels=0,
        start_us=columns.base_microseconds + float(busy.starts[0]),
        compute=compute,
    )


def _collectives(
    device: DeviceColumns, starts: NDArray[np.float64], ends: NDArray[np.float64], communicates: NDArray[np.bool_]
) -> list[Collective]:
    """Communication in order of start, each with the group it belongs to as far as the trace names one."""
    named = {entry: f"{collective} {ranks}" for entry, collective, ranks in device.collectives}
    entries = np.flatnonzero(communicates)
    order = entries[np.argsort(starts[entries], kind="stable")]
    return [Collective(named.get(int(i), ""), float(starts[i]), float(ends[i])) for i in order]
