"""The resource panel: how busy each resource was, mean and p95, each against a stated capacity.

It stands beside the score because no single number is enough. A row that could not be measured says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from tokenstone.wire import WindowRow

Points = list[tuple[float, float]]
"""(value, weight in seconds) of each window."""


class PanelRow(BaseModel):
    """One resource. Ratios are of the capacity; None with a reason where they were not measured."""

    model_config = ConfigDict(frozen=True)

    resource: str
    mean_ratio: float | None = None
    p95_ratio: float | None = None
    capacity: str = ""
    provenance: str = ""
    absent_reason: str = ""


def telemetry_rows(windows: Sequence[WindowRow], scale_up_bytes_per_second: float | None) -> list[PanelRow]:
    """Rows that follow from the agents' windows of the run's nodes during the run.

    `scale_up_bytes_per_second`: published capacity of a device's links, one direction; None where not known.
    """
    by_metric: dict[str, list[WindowRow]] = defaultdict(list)
    for window in windows:
        by_metric[window.metric].append(window)
    rows = [row(by_metric) for row in _ROWS]
    return [*rows[:2], _links(by_metric, scale_up_bytes_per_second), *rows[2:]]


def weighted_mean(points: Iterable[tuple[float, float]]) -> float | None:
    """Mean by weight; None where nothing has weight."""
    pairs = list(points)
    weight = sum(w for _, w in pairs)
    return sum(v * w for v, w in pairs) / weight if weight > 0 else None


def weighted_percentile(points: Iterable[tuple[float, float]], q: float) -> float | None:
    """Smallest value that at least the share `q` of the weight does not exceed.

    >>> weighted_percentile([(0.1, 1), (0.2, 1), (0.9, 2)], 0.5)
    0.2
    """
    pairs = sorted(points)
    total = sum(w for _, w in pairs)
    if total <= 0:
        return None
    reached = 0.0
    for value, weight in pairs:
        reached += weight
        if reached >= q * total * (1 - 1e-12):
            return value
    return pairs[-1][0]


def _row(resource: str, points: Points, capacity: str, otherwise: str) -> PanelRow:
    if not points:
        return PanelRow(resource=resource, absent_reason=otherwise)
    return PanelRow(
        resource=resource,
        mean_ratio=weighted_mean(points),
        p95_ratio=weighted_percentile(points, 0.95),
        capacity=capacity,
        provenance="measured",
    )


ByMetric = Mapping[str, list[WindowRow]]


def _memory_bandwidth(m: ByMetric) -> PanelRow:
    points = _gauge(m, "accel_memory_bandwidth_ratio")
    return _row("accelerator memory bandwidth", points, "peak bandwidth, by the driver", "no counter on this device")


def _memory_capacity(m: ByMetric) -> PanelRow:
    points = _quotient(m, "accel_memory_used_bytes", "accel_memory_total_bytes", lambda used, total: used / total)
    return _row("accelerator memory", points, "device memory", "no accelerator memory was reported")


def _network(m: ByMetric) -> PanelRow:
    """Traffic of the busier direction of each port against its line rate.

    Where there are InfiniBand or RoCE ports they are the network: collectives run over them, and the interfaces of the
    kernel, the management's among them, do not see that traffic.
    """
    for kind, label in (("rdma", "port"), ("network", "interface")):
        points, was_measured = _traffic(m, kind, label)
        if points:
            return _row("network", points, "line rate, busier direction", "")
        if was_measured:
            return _row("network", [], "", "the interfaces' drivers report no line rate")
    return _row("network", [], "", "no interface was measured")


def _traffic(m: ByMetric, kind: str, label: str) -> tuple[Points, bool]:
    """Return the points of the ports of a kind, and whether any traffic was measured."""
    speeds = {(w.node, w.labels.get(label)): w.mean for w in m.get(f"{kind}_speed_bytes_per_second", [])}
    moved: dict[tuple[str, str | None, float], float] = {}
    length: dict[tuple[str, str | None, float], float] = {}
    for direction in ("receive", "transmit"):
        for w in m.get(f"{kind}_{direction}_bytes_total", []):
            key = (w.node, w.labels.get(label), w.start_unix_seconds)
            if w.delta is not None and w.duration_seconds > 0:
                moved[key] = max(moved.get(key, 0.0), w.delta)
                length[key] = w.duration_seconds
    points: Points = []
    for (node, port, start), amount in moved.items():
        speed = speeds.get((node, port))
        if speed:
            seconds = length[(node, port, start)]
            points.append((amount / seconds / speed, seconds))
    return points, bool(moved)


def _storage(m: ByMetric) -> PanelRow:
    """Share of time with an operation in flight, on the busiest disk of each node and window."""
    busiest: dict[tuple[str, float], tuple[float, float]] = {}
    for w in m.get("disk_io_seconds_total", []):
        if w.delta is not None and w.duration_seconds > 0:
            key = (w.node, w.start_unix_seconds)
            share = min(1.0, w.delta / w.duration_seconds)
            busiest[key] = max(busiest.get(key, (0.0, 0.0)), (share, w.duration_seconds))
    return _row("storage", list(busiest.values()), "time of the busiest disk", "no disk was measured")


def _host_cpu(m: ByMetric) -> PanelRow:
    idle: dict[tuple[str, float], float] = defaultdict(float)
    total: dict[tuple[str, float], float] = defaultdict(float)
    length: dict[tuple[str, float], float] = {}
    for w in m.get("host_cpu_seconds_total", []):
        key = (w.node, w.start_unix_seconds)
        if w.delta is not None:
            length[key] = w.duration_seconds
            total[key] += w.delta
            if w.labels.get("mode") in {"idle", "iowait"}:
                idle[key] += w.delta
    points = [(1 - idle[key] / total[key], length[key]) for key in total if total[key] > 0]
    count = weighted_mean((w.mean or 0.0, w.duration_seconds) for w in m.get("host_cpu_logical_processors", []))
    capacity = f"{count:.0f} logical processors a node" if count else "processor time"
    return _row("host CPU", points, capacity, "no agent measured the host")


def _host_memory(m: ByMetric) -> PanelRow:
    points = _quotient(
        m, "host_memory_available_bytes", "host_memory_total_bytes", lambda free, total: 1 - free / total
    )
    total = weighted_mean((w.mean or 0.0, w.duration_seconds) for w in m.get("host_memory_total_bytes", []))
    capacity = f"{total / 1e9:.1f} GB a node" if total else "host memory"
    return _row("host memory", points, capacity, "no agent measured the host")


def _links(m: ByMetric, capacity: float | None) -> PanelRow:
    """Busier direction of a device's scale-up links (PCIe is not one) against their published capacity."""
    rates: dict[tuple[str, str, float], tuple[float, float]] = {}
    for w in m.get("accel_link_bytes_per_second", []):
        if w.mean is not None and w.labels.get("link") != "pcie":
            key = (w.node, w.device, w.start_unix_seconds)
            rates[key] = max(rates.get(key, (0.0, 0.0)), (w.mean, w.duration_seconds))
    if not rates or capacity is None:
        why = "no link was measured" if not rates else "no capacity is published for these links"
        return PanelRow(resource="scale-up links", absent_reason=why)
    points = [(rate / capacity, seconds) for rate, seconds in rates.values()]
    return _row("scale-up links", points, f"{capacity / 1e9:.0f} GB/s a direction, published", "")


def _power(m: ByMetric) -> PanelRow:
    points = _quotient(m, "accel_power_watts", "accel_power_limit_watts", lambda drawn, limit: drawn / limit)
    return _row("power", points, "power limit in force", "no device reported its power and limit")


def _gauge(m: ByMetric, metric: str) -> Points:
    return [(w.mean, w.duration_seconds) for w in m.get(metric, []) if w.mean is not None]


def _quotient(m: ByMetric, above: str, below: str, ratio: Callable[[float, float], float]) -> Points:
    """Join two gauges by node, device and start of the window."""
    bottom = {(w.node, w.device, w.start_unix_seconds): w.mean for w in m.get(below, [])}
    points: Points = []
    for w in m.get(above, []):
        total = bottom.get((w.node, w.device, w.start_unix_seconds))
        if w.mean is not None and total:
            points.append((ratio(w.mean, total), w.duration_seconds))
    return points


_ROWS: tuple[Callable[[ByMetric], PanelRow], ...] = (
    _memory_bandwidth,
    _memory_capacity,
    _network,
    _storage,
    _host_cpu,
    _host_memory,
    _power,
)
