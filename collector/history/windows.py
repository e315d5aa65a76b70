"""PromQL over the job's time: gauges as means, counters as increases, window by window, in Tokenstone's names.

Names and units are those that the agent's own sources give to the same exporters (collector/sources).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from collector.history.job import PastJob, quoted
from collector.history.prometheus import Labels, Prometheus
from collector.sources.accelerator import MEBIBYTE
from collector.sources.dcgm_exporter import FIELDS
from collector.sources.node_exporter import MAP
from tokenstone.errors import OperationError
from tokenstone.metric import REGISTRY, Kind
from tokenstone.wire import WindowRow

_DEVICE_FIELDS = (
    "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE",
    "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_PROF_NVLINK_TX_BYTES", "DCGM_FI_PROF_NVLINK_RX_BYTES",
)  # fmt: skip
_MEMORY = ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED")
_HOST_SERIES = (
    "node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes", "node_disk_io_time_seconds_total",
    "node_network_receive_bytes_total", "node_network_transmit_bytes_total", "node_network_speed_bytes",
)  # fmt: skip
_PORTS = {
    "node_infiniband_port_data_received_bytes_total": "rdma_receive_bytes_total",
    "node_infiniband_port_data_transmitted_bytes_total": "rdma_transmit_bytes_total",
    "node_infiniband_rate_bytes_per_second": "rdma_speed_bytes_per_second",
}
_MOST = {"ratio": 1.05, "watts": 1e5, "joules": 1e5, "bytes": 1e16, "bytes/second": 1e13, "seconds": 1e9}
"""More than that (joules: a second) is DCGM's mark for no value, or a mean with one in it."""


@dataclass(slots=True)
class History:
    """Windows, and what kept others from being here."""

    rows: list[WindowRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_history(
    prometheus: Prometheus, job: PastJob, start: float, end: float, step: float, *, progress: Callable[[str], None]
) -> History:
    """All windows of the job's devices and nodes. A series that cannot be read is noted, and the others are read."""
    history = History()
    reader = _Reader(prometheus, start, end, step, history, progress)
    nodes = {device.id: device.node for device in job.devices}
    for name in _DEVICE_FIELDS:
        metric, factor, more = FIELDS[name]
        for by, points in reader.read(name, job.matchers, metric):
            if by.get("UUID") in nodes and not by.get("GPU_I_ID"):
                id = by["UUID"]
                reader.add(nodes[id], id, metric, {**more}, [(at, value * factor) for at, value in points])
    _total_memory(reader, job, nodes)
    if job.instances:
        _hosts(reader, job)
    else:
        history.notes.append("no node_exporter of these nodes was found: nothing is known of their hosts and network")
    return history


class _Reader:
    """Asks, and turns points into windows."""

    def __init__(
        self, prometheus: Prometheus, start: float, end: float, step: float, history: History,
        progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._prometheus, self._start, self._end, self._step = prometheus, start, end, step
        self._history, self._progress = history, progress
        self._seen: set[tuple[str, str, str, tuple[tuple[str, str], ...], float]] = set()

    def read(
        self, name: str, matchers: str, metric: str, *, by: str = ""
    ) -> Iterator[tuple[Labels, list[tuple[float, float]]]]:
        """Means or increases of one exporter's series; `by`: labels that stay when others are summed over."""
        over = "increase" if REGISTRY[metric].kind is Kind.COUNTER else "avg_over_time"
        # Before version 3 both ends of a range count: a sample at the edge would be in two windows.
        query = f"{over}({name}{{{matchers}}}[{round(self._step * 1000) - 1}ms])"
        yield from self.ask(f"sum by ({by}) ({query})" if by else query, name)

    def ask(self, query: str, name: str) -> list[tuple[Labels, list[tuple[float, float]]]]:
        self._progress(name)
        try:
            # Prometheus' windows end at the instants asked for.
            return self._prometheus.range(query, self._start + self._step, self._end, self._step)
        except OperationError as error:
            self._history.notes.append(f"{name} could not be read: {error.what}")
            return []

    def add(
        self, node: str, device: str, metric: str, labels: dict[str, str], points: list[tuple[float, float]]
    ) -> None:
        """One window a point; what cannot be, and a second copy of the same, is left out."""
        known = REGISTRY[metric]
        counter = known.kind is Kind.COUNTER
        most = _MOST.get(known.unit, math.inf) * (self._step if counter and known.unit == "joules" else 1.0)
        impossible = 0
        for at, value in points:
            if not 0 <= value <= most:  # NaN is neither
                impossible += 1
                continue
            start = at - self._step
            key = (node, device, metric, tuple(sorted(labels.items())), start)
            if key in self._seen:
                continue
            self._seen.add(key)
            self._history.rows.append(
                WindowRow(
                    node=node, device=device, metric=metric, labels=labels, start_unix_seconds=start,
                    duration_seconds=self._step, count=1, mean=None if counter else value, minimum=None, maximum=None,
                    delta=value if counter else None,
                )
            )  # fmt: skip
        if impossible:
            self._history.notes.append(f"{metric} of {device}: {impossible} windows hold values that cannot be")


def _total_memory(reader: _Reader, job: PastJob, nodes: dict[str, str]) -> None:
    """The default counters of dcgm-exporter have used, free and reserved memory; their sum is the total."""
    sums: dict[tuple[str, float], list[float]] = {}
    for name in _MEMORY:
        for by, points in reader.read(name, job.matchers, "accel_memory_used_bytes"):
            if by.get("UUID") in nodes and not by.get("GPU_I_ID"):
                for at, value in points:
                    sums.setdefault((by["UUID"], at), []).append(value)
    for (id, at), parts in sums.items():
        if len(parts) == len(_MEMORY):
            reader.add(nodes[id], id, "accel_memory_total_bytes", {}, [(at, math.fsum(parts) * MEBIBYTE)])


def _hosts(reader: _Reader, job: PastJob) -> None:
    matchers = f"instance=~{quoted('|'.join(_exactly(instance) for instance in sorted(job.instances)))}"
    cpu = "node_cpu_seconds_total"
    for by, points in reader.read(cpu, matchers, "host_cpu_seconds_total", by="instance, mode"):
        _add_host(reader, job, by, "host_cpu_seconds_total", MAP[cpu][1](by), points)
    count = f"count by (instance) (count by (instance, cpu) (last_over_time({cpu}{{{matchers}}}[5m])))"
    for by, points in reader.ask(count, cpu):
        _add_host(reader, job, by, "host_cpu_logical_processors", {}, points)
    for name in _HOST_SERIES:
        metric, take = MAP[name]
        for by, points in reader.read(name, matchers, metric):
            _add_host(reader, job, by, metric, take(by), points)
    for name, metric in _PORTS.items():
        for by, points in reader.read(name, matchers, metric):
            port = f"{by.get('device', '')}/{by.get('port', '')}"
            _add_host(reader, job, by, metric, {"port": port}, points)


def _exactly(instance: str) -> str:
    """An instance as a regular expression of RE2."""
    return "".join(c if c.isalnum() or c in "-_:" else f"\\{c}" for c in instance)


def _add_host(
    reader: _Reader, job: PastJob, by: Labels, metric: str, labels: dict[str, str] | None,
    points: list[tuple[float, float]],
) -> None:  # fmt: skip
    node = job.instances.get(by.get("instance", ""))
    if node is not None and labels is not None:
        # A speed of -1 is the kernel's word for unknown.
        reader.add(node, "host", metric, labels, [(at, value) for at, value in points if value >= 0])
