"""Prometheus' node_exporter: its metrics of the host as Tokenstone's.

Names are those of node_exporter 1.x. InfiniBand's counters are already multiplied to bytes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from collector.sources.base import Parts
from tokenstone.sample import HOST, Absence, Reading, labels

By = Callable[[Mapping[str, str]], dict[str, str] | None]
"""Turns the exporter's labels into ours, or None for a series that is left out."""

_WAITING, _STALLED = "host_pressure_waiting_seconds_total", "host_pressure_stalled_seconds_total"
_MODES = {"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}
# Network file systems have their own metrics; images and memory are nobody's disk.
_NO_DISK = {"tmpfs", "ramfs", "squashfs", "iso9660", "erofs", "overlay", "nfs", "nfs4", "lustre", "fuse", "devtmpfs"}


def _none(_: Mapping[str, str]) -> dict[str, str] | None:
    return {}


def _mode(by: Mapping[str, str]) -> dict[str, str] | None:
    return {"mode": by["mode"]} if by.get("mode") in _MODES else None


def _interface(by: Mapping[str, str]) -> dict[str, str] | None:
    return None if by.get("device", "lo") == "lo" else {"interface": by["device"]}


def _disk(by: Mapping[str, str]) -> dict[str, str] | None:
    name = by.get("device", "")
    return None if not name or name.startswith(("dm-", "md", "loop", "ram", "zram")) else {"disk": name}


def _mount(by: Mapping[str, str]) -> dict[str, str] | None:
    return None if by.get("fstype") in _NO_DISK or not by.get("mountpoint") else {"mountpoint": by["mountpoint"]}


def _fixed(take: By, **more: str) -> By:
    def with_more(by: Mapping[str, str]) -> dict[str, str] | None:
        taken = take(by)
        return None if taken is None else {**taken, **more}

    return with_more


MAP: dict[str, tuple[str, By]] = {
    "node_cpu_seconds_total": ("host_cpu_seconds_total", _mode),
    "node_load1": ("host_load_average", _none),
    "node_memory_MemTotal_bytes": ("host_memory_total_bytes", _none),
    "node_memory_MemAvailable_bytes": ("host_memory_available_bytes", _none),
    "node_pressure_cpu_waiting_seconds_total": (_WAITING, _fixed(_none, resource="cpu")),
    "node_pressure_io_waiting_seconds_total": (_WAITING, _fixed(_none, resource="io")),
    "node_pressure_io_stalled_seconds_total": (_STALLED, _fixed(_none, resource="io")),
    "node_pressure_memory_waiting_seconds_total": (_WAITING, _fixed(_none, resource="memory")),
    "node_pressure_memory_stalled_seconds_total": (_STALLED, _fixed(_none, resource="memory")),
    **{
        f"node_network_{theirs}_total": (f"network_{ours}_total", _interface)
        for theirs, ours in (
            ("receive_bytes", "receive_bytes"),
            ("receive_packets", "receive_packets"),
            ("receive_errs", "receive_errors"),
            ("receive_drop", "receive_drops"),
            ("transmit_bytes", "transmit_bytes"),
            ("transmit_packets", "transmit_packets"),
            ("transmit_errs", "transmit_errors"),
            ("transmit_drop", "transmit_drops"),
        )
    },
    "node_network_speed_bytes": ("network_speed_bytes_per_second", _interface),
    "node_network_up": ("network_up_ratio", _interface),
    "node_disk_read_bytes_total": ("disk_read_bytes_total", _disk),
    "node_disk_written_bytes_total": ("disk_written_bytes_total", _disk),
    "node_disk_reads_completed_total": ("disk_reads_completed_total", _disk),
    "node_disk_writes_completed_total": ("disk_writes_completed_total", _disk),
    "node_disk_io_time_seconds_total": ("disk_io_seconds_total", _disk),
    "node_filesystem_size_bytes": ("filesystem_size_bytes", _mount),
    "node_filesystem_avail_bytes": ("filesystem_available_bytes", _mount),
}
_PROCESSORS = "host_cpu_logical_processors"
METRICS = tuple(dict.fromkeys([*(metric for metric, _ in MAP.values()), _PROCESSORS]))


def to_parts(families: Mapping[str, Family]) -> Parts:
    """Return what the exporter's families say of the host; what it does not collect is absent."""
    totals: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    processors: set[str] = set()
    for name, family in families.items():
        if name not in MAP:
            continue
        metric, take = MAP[name]
        for sample in _of(name, family.samples):
            by = take(sample.labels)
            # A speed of -1 is the kernel's word for unknown.
            if by is None or sample.value < 0:
                continue
            key = (metric, labels(by))
            totals[key] = totals.get(key, 0.0) + sample.value  # processors are added up
            if metric == "host_cpu_seconds_total":
                processors.add(sample.labels.get("cpu", ""))
    readings = [Reading(metric, value, HOST, by) for (metric, by), value in totals.items()]
    if processors:
        readings.append(Reading(_PROCESSORS, float(len(processors)), HOST))
    given = {reading.metric for reading in readings}
    missing = (metric for metric in METRICS if metric not in given)
    return Parts(tuple(readings), tuple(Absence(metric, "node_exporter does not give it") for metric in missing))


def _of(name: str, samples: Iterable[Sample]) -> Iterable[Sample]:
    return (sample for sample in samples if sample.name == name)
