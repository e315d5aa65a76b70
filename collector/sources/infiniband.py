"""InfiniBand and RoCE ports: /sys/class/infiniband (Documentation/ABI/stable/sysfs-class-infiniband).

Ports are named as `rdma link` names them, mlx5_0/1. Makers name the counters of `hw_counters` as they like; a table
maps them to a few words. A counter that cannot be read is left alone until the ports are looked for again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from collector.sources.infiniband_counters import COUNTERS
from tokenstone.sample import HOST, Absence, Reading, labels

RESCAN_SECONDS = 30.0
"""How often ports, and counters that could not be read, are looked for anew."""
SLOW_SECONDS = 5.0
"""How often errors and events are read: there are dozens of them, and most stand still."""

_FOLDER = "sys/class/infiniband"
_SPEED = "rdma_speed_bytes_per_second"
_UP = "rdma_up_ratio"
_INFO = "rdma_port_info"
_ACTIVE = "ACTIVE"
_SLOW = {"rdma_errors_total", "rdma_transport_events_total"}

Plan = list[tuple[Reading, tuple[str, ...], float]]
"""Readings still without a value, the files that add up to it, and the factor to the metric's unit."""


def parse_rate(text: str) -> float:
    """Parse `rate` to bytes per second and direction; raises ValueError.

    >>> parse_rate("400 Gb/sec (4X NDR)\\n")
    50000000000.0
    """
    match text.split():
        case [gigabits, "Gb/sec", *_] if float(gigabits) > 0:
            return float(gigabits) * 1e9 / 8
    raise ValueError(f"{text.strip()!r} is no rate")


def parse_state(text: str) -> bool:
    """Parse `state` to whether the port carries traffic; raises ValueError.

    >>> parse_state("4: ACTIVE\\n"), parse_state("1: DOWN\\n")
    (True, False)
    """
    number, colon, name = text.strip().partition(": ")
    if not colon or not number.isdigit():
        raise ValueError(f"{text.strip()!r} is no state")
    return name == _ACTIVE


def why(error: OSError | ValueError) -> str:
    """Say why a file gave no number, in words that stay the same: they become a label."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    held = str(error).rpartition("b'")[2].removesuffix("'").replace("\\n", "").strip()
    return held[:60] or "it is empty"


@dataclass(slots=True)
class _Port:
    name: str
    folder: str
    info: Reading
    fast: Plan
    slow: Plan
    absences: list[Absence]
    held: list[Reading] = field(default_factory=list)


class InfinibandSource(Source):
    """Bytes, packets, congestion, transport events, errors, line rate and state of each port."""

    name = "infiniband"
    metrics = (*dict.fromkeys(counter.metric for counter in COUNTERS), _SPEED, _UP, _INFO)

    def __init__(self, root: Path, monotonic: Callable[[], float]) -> None:
        self._root, self._monotonic = root, monotonic
        self._files = Files(root)
        self._ports: list[_Port] = []
        self._scan_at = self._slow_at = -math.inf

    def read(self) -> Parts:
        """Read all ports. A node without any is no failure."""
        now = self._monotonic()
        if now >= self._scan_at:
            self._ports, self._scan_at, self._slow_at = list(self._scan()), now + RESCAN_SECONDS, now
        is_slow_due = now >= self._slow_at
        if is_slow_due:
            self._slow_at = now + SLOW_SECONDS
        readings: list[Reading] = []
        absences: list[Absence] = []
        for port in self._ports:
            self._read_counters(port, port.fast, readings, absences)
            if is_slow_due:
                port.held = []
                self._read_counters(port, port.slow, port.held, absences)
                readings += port.held
            self._read_link(port, readings, absences)
            absences += port.absences
        if not self._ports:
            absences = [Absence(metric, "this node has no InfiniBand or RoCE port") for metric in self.metrics]
        held = () if is_slow_due else tuple(reading for port in self._ports for reading in port.held)
        return Parts(tuple(readings), tuple(absences), held=held)

    def _read_counters(self, port: _Port, plan: Plan, readings: list[Reading], absences: list[Absence]) -> None:
        number = self._files.number
        for reading, paths, factor in plan:
            try:
                value = (number(paths[0]) if len(paths) == 1 else sum(map(number, paths))) * factor
            except (OSError, ValueError) as error:
                file = paths[0].rpartition("/")[2]
                absences.append(Absence(reading.metric, f"{port.name}: {file}: {why(error)}"))
                self._scan_at = -math.inf  # it answered before: look again what this port can give
            else:
                readings.append(Reading(reading.metric, value, HOST, reading.labels))

    def _read_link(self, port: _Port, readings: list[Reading], absences: list[Absence]) -> None:
        readings.append(port.info)
        for metric, file, parse in ((_SPEED, "rate", parse_rate), (_UP, "state", parse_state)):
            try:
                value = float(parse(self._files.text(f"{port.folder}/{file}")))
                readings.append(Reading(metric, value, HOST, port.info.labels[-1:]))
            except (OSError, ValueError) as error:
                absences.append(Absence(metric, f"{port.name}: {file}: {why(error)}"))

    def _scan(self) -> Iterator[_Port]:
        for adapter in _names(self._root / _FOLDER):
            for number in _names(self._root / _FOLDER / adapter / "ports"):
                name, folder = f"{adapter}/{number}", f"{_FOLDER}/{adapter}/ports/{number}"
                plan, absences = self._plan(name, folder)
                fast = [entry for entry in plan if entry[0].metric not in _SLOW]
                slow = [entry for entry in plan if entry[0].metric in _SLOW]
                yield _Port(name, folder, self._info(adapter, number, name), fast, slow, absences)

    def _plan(self, name: str, folder: str) -> tuple[Plan, list[Absence]]:
        """Try every counter once, so that no tick pays for those that this driver does not give."""
        kinds = ("counters", "hw_counters")
        there = {f"{kind}/{file}" for kind in kinds for file in _names(self._root / folder / kind)}
        files: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[list[str], float]] = {}
        refused: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
        for counter in COUNTERS:
            key = (counter.metric, labels(counter.labels, port=name))
            if counter.file not in there or (key in files and not counter.adds):
                continue
            try:
                self._files.number(f"{folder}/{counter.file}")
            except (OSError, ValueError) as error:  # N/A (no PMA), EINVAL, EOPNOTSUPP
                refused.setdefault(key, f"{counter.file}: {why(error)}")
            else:
                files.setdefault(key, ([], counter.factor))[0].append(f"{folder}/{counter.file}")
        plan = [
            (Reading(metric, 0.0, labels=by), tuple(paths), factor) for (metric, by), (paths, factor) in files.items()
        ]
        given = {metric for metric, _ in files}
        reasons = {key: f"{name}: {reason}" for key, reason in refused.items() if key not in files}
        absences = [Absence(metric, reason) for (metric, _), reason in reasons.items()]
        absences += [
            Absence(metric, f"{name}: its driver has no such counter")
            for metric in dict.fromkeys(counter.metric for counter in COUNTERS)
            if metric not in given and metric not in {metric for metric, _ in reasons}
        ]
        return plan, absences

    def _info(self, adapter: str, number: str, name: str) -> Reading:
        port = self._root / _FOLDER / adapter / "ports" / number
        layer = _first(port / "link_layer")
        # RoCE runs over a network interface; its name joins the port to the interface's own counters.
        interfaces = _names(self._root / _FOLDER / adapter / "device/net") if layer == "Ethernet" else []
        interface = _first(port / "gid_attrs/ndevs/0") or (interfaces[0] if len(interfaces) == 1 else "")
        return Reading(_INFO, 1.0, labels=labels(port=name, link_layer=layer, interface=interface))

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._scan_at = -math.inf


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _first(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
