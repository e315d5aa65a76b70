"""One trace file as columns: what its devices ran, and what the host did meanwhile. Times in microseconds."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenstone.errors import InvalidFile
from tokenstone.trace.intervals import Floats, Intervals, union
from tokenstone.trace.kernels import COMMUNICATION, Classifier
from tokenstone.trace.reader import Event, TraceReader, convert_arguments

_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset"})
"""Categories of what a device ran, of present profilers and of old ones."""
_RUNTIME = frozenset({"cuda_runtime", "cuda_driver", "hip_runtime", "privateuse1_runtime", "xpu_runtime", "Runtime"})
_ANNOTATION = frozenset({"user_annotation", "python_function"})
_INPUT = ("enumerate(DataLoader)", "DataLoader", "dataloader", "_next_data")
"""How loaders of data name themselves."""


@dataclass(slots=True)
class Spans:
    """Intervals that may overlap, in the order of the file."""

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))

    def add(self, start: float, duration: float) -> None:
        """Add one that lasts `duration`."""
        self.starts.append(start)
        self.ends.append(start + duration)

    def arrays(self) -> tuple[Floats, Floats]:
        """Starts and ends."""
        return np.array(self.starts), np.array(self.ends)

    def union(self) -> Intervals:
        """What they cover together."""
        return union(*self.arrays())


@dataclass(slots=True)
class DeviceColumns:
    """What one device ran. Entry i of every column is one kernel, copy or fill."""

    spans: Spans = field(default_factory=Spans)
    kinds: array[int] = field(default_factory=lambda: array("h"))
    """Index into `FileColumns.kinds`."""
    correlations: array[int] = field(default_factory=lambda: array("q"))
    """Which call of the host launched it; -1 where the trace does not say."""
    collectives: list[tuple[int, str, str]] = field(default_factory=list)
    """Entry, collective and ranks, of those that name them."""


@dataclass(slots=True)
class FileColumns:
    """One file. Times count from its first event's, so that microseconds of the epoch lose no fraction."""

    path: Path
    rank: int | None = None
    world_size: int | None = None
    device_name: str | None = None
    backend: str | None = None
    base_microseconds: float = 0.0
    """What a time of 0 is on the trace's own clock."""
    kinds: list[str] = field(default_factory=list)
    devices: dict[str, DeviceColumns] = field(default_factory=dict)
    launch_correlations: array[int] = field(default_factory=lambda: array("q"))
    launch_starts: array[float] = field(default_factory=lambda: array("d"))
    """When the host made each of its calls to the device."""
    synchronisations: Spans = field(default_factory=Spans)
    inputs: Spans = field(default_factory=Spans)
    host_operators: Spans = field(default_factory=Spans)
    host_communication: Spans = field(default_factory=Spans)
    steps: int = 0
    events: int = 0
    unreadable: int = 0
    """Events with a duration but without a readable time."""
    truncated: str = ""

    def launches(self, correlations: array[int]) -> Floats:
        """When the host launched each of them; nan where the trace does not say."""
        asked = np.array(correlations)
        known = np.array(self.launch_correlations)
        if not len(known):
            return np.full(len(asked), np.nan)
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known[order], asked), len(known) - 1)
        found = order[place]
        return np.where(known[found] == asked, np.array(self.launch_starts)[found], np.nan)


def read_columns(path: Path, classifier: Classifier) -> FileColumns:
    """Read one file. Raises InvalidFile where it is no trace, or holds nothing that lasted."""
    reader = TraceReader(path)
    columns = FileColumns(path)
    collect = _Collector(columns, classifier)
    for batch in reader.events():
        collect.take(batch)
    columns.events, columns.truncated = reader.read_events, reader.truncated
    _take_header(columns, reader.header)
    if not columns.devices and not columns.host_operators.starts:
        raise InvalidFile(
            f"none of its {columns.events:,} events is a kernel or an operator that lasted", where=str(path),
            hint="profile with activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA] or the device's own",
        )  # fmt: skip
    return columns


def _take_header(columns: FileColumns, header: dict[str, Any]) -> None:
    distributed = header.get("distributedInfo")
    if isinstance(distributed, dict):
        rank, size = distributed.get("rank"), distributed.get("world_size")
        columns.rank = rank if isinstance(rank, int) else None
        columns.world_size = size if isinstance(size, int) else None
        columns.backend = str(distributed.get("backend")) if distributed.get("backend") else None
    devices = header.get("deviceProperties")
    names = {str(d.get("name")) for d in devices if isinstance(d, dict)} if isinstance(devices, list) else set()
    columns.device_name = names.pop() if len(names) == 1 else None
    if isinstance(nanoseconds := header.get("baseTimeNanoseconds"), int | float):
        columns.base_microseconds += nanoseconds / 1e3


class _Collector:
    """Sorts events into columns."""

    def __init__(self, columns: FileColumns, classifier: Classifier) -> None:
        self._columns, self._classifier = columns, classifier
        self._kinds: dict[str, int] = {}
        self._base: float | None = None

    def take(self, batch: Sequence[Event]) -> None:
        for event, start, duration in self._lasting(batch):
            category = event.cat
            if category in _DEVICE:
                self._device(event, start, duration)
            elif category in _RUNTIME:
                self._runtime(event, start, duration)
            elif category in _ANNOTATION:
                self._annotation(event, start, duration)
            elif category == "cpu_op":
                self._operator(event, start, duration)

    def _lasting(self, batch: Sequence[Event]) -> Iterator[tuple[Event, float, float]]:
        """Events with a duration, their start on this file's scale, and how long they took."""
        base = self._base
        for event in batch:
            if event.ph != "X":
                continue
            start, duration = event.ts, event.dur
            if type(start) is not int and type(start) is not float:
                start = _number(start)
            if type(duration) is not int and type(duration) is not float:
                duration = _number(duration)
            if start is None or duration is None or duration < 0:
                self._columns.unreadable += 1
                continue
            if base is None:
                base = self._base = start
                self._columns.base_microseconds = float(start)
            yield event, float(start - base), float(duration)

    def _device(self, event: Event, start: float, duration: float) -> None:
        arguments = convert_arguments(event)
        device = str(event.pid if arguments.device is None else arguments.device)
        columns = self._columns.devices.get(device)
        if columns is None:
            columns = self._columns.devices[device] = DeviceColumns()
        kind = self._classifier.classify(str(event.name), str(event.cat))
        if kind == COMMUNICATION and arguments.collective is not None:
            ranks = str(arguments.process_group_ranks or arguments.process_group or "")
            columns.collectives.append((len(columns.kinds), str(arguments.collective), ranks))
        columns.spans.add(start, duration)
        columns.kinds.append(self._kind(kind))
        correlation = arguments.correlation
        columns.correlations.append(correlation if type(correlation) is int else -1)

    def _kind(self, name: str) -> int:
        number = self._kinds.get(name)
        if number is None:
            number = self._kinds[name] = len(self._columns.kinds)
            self._columns.kinds.append(name)
        return number

    def _runtime(self, event: Event, start: float, duration: float) -> None:
        correlation = convert_arguments(event).correlation
        if type(correlation) is int:
            self._columns.launch_correlations.append(correlation)
            self._columns.launch_starts.append(start)
        if "Synchronize" in str(event.name):
            self._columns.synchronisations.add(start, duration)

    def _annotation(self, event: Event, start: float, duration: float) -> None:
        name = str(event.name)
        if name.startswith("ProfilerStep#"):
            self._columns.steps += 1
        elif any(word in name for word in _INPUT):
            self._columns.inputs.add(start, duration)
        elif event.cat == "user_annotation" and ":" in name and self._classifier.communicates(name):
            self._columns.host_communication.add(start, duration)

    def _operator(self, event: Event, start: float, duration: float) -> None:
        name = str(event.name)
        if any(word in name for word in _INPUT):
            self._columns.inputs.add(start, duration)
        elif not name.startswith("c10d::"):  # those only hand a collective over
            self._columns.host_operators.add(start, duration)


def _number(value: Any) -> float | None:
    """Some writers put numbers in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
