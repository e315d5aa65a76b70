"""Network interfaces: /proc/net/dev, and speed and state below /sys/class/net."""

from __future__ import annotations

from pathlib import Path

from collector.sources.base import Parts, Source, read_text
from tokenstone.sample import Absence, Reading, labels

# Columns of /proc/net/dev: eight of receiving, then eight of sending.
_COUNTERS = {
    0: "network_receive_bytes_total",
    1: "network_receive_packets_total",
    2: "network_receive_errors_total",
    3: "network_receive_drops_total",
    8: "network_transmit_bytes_total",
    9: "network_transmit_packets_total",
    10: "network_transmit_errors_total",
    11: "network_transmit_drops_total",
}
_COLUMNS = 16
_SPEED = "network_speed_bytes_per_second"
_UP = "network_up_ratio"
_BYTES_PER_MEGABIT = 125_000
_UNKNOWN_SPEEDS = {-1, 0, 0xFFFFFFFF}


def parse_net_dev(text: str) -> dict[str, tuple[int, ...]]:
    """Parse /proc/net/dev to the sixteen counters of each interface. Lines that have not sixteen are left out."""
    counters: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        name, colon, values = line.rpartition(":")
        numbers = values.split()
        if colon and len(numbers) == _COLUMNS and all(number.isdigit() for number in numbers):
            counters[name.strip()] = tuple(map(int, numbers))
    return counters


def parse_speed(text: str) -> float | None:
    """Parse `speed` (megabits per second) to bytes per second; None where the driver does not know.

    >>> parse_speed("400000\\n")
    50000000000.0
    """
    try:
        megabits = int(text)
    except ValueError:
        return None
    return None if megabits in _UNKNOWN_SPEEDS else float(megabits * _BYTES_PER_MEGABIT)


class EthernetSource(Source):
    """Traffic, errors, line rate and state of each network interface.

    Bridges, tunnels and the host's ends of containers' interfaces carry the same bytes again, so only interfaces
    with hardware behind them count; where none has (inside a container), all but the loopback do.
    """

    name = "ethernet"
    metrics = (*_COUNTERS.values(), _SPEED, _UP)

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> Parts:
        """Read all interfaces; raises OSError where /proc/net/dev cannot be read."""
        counters = parse_net_dev(read_text(self._root, "proc/net/dev"))
        names = [name for name in counters if name != "lo"]
        names = [name for name in names if (self._root / "sys/class/net" / name / "device").exists()] or names
        readings: list[Reading] = []
        absences: list[Absence] = []
        for name in names:
            by = labels(interface=name)
            readings += [Reading(metric, counters[name][column], labels=by) for column, metric in _COUNTERS.items()]
            for metric, value in ((_SPEED, self._speed(name)), (_UP, self._up(name))):
                if isinstance(value, str):
                    absences.append(Absence(metric, f"{name}: {value}"))
                else:
                    readings.append(Reading(metric, value, labels=by))
        if not names:
            absences += [
                Absence(metric, "this node has no network interface but the loopback") for metric in self.metrics
            ]
        return Parts(tuple(readings), tuple(absences))

    def _speed(self, name: str) -> float | str:
        try:
            speed = parse_speed(read_text(self._root, f"sys/class/net/{name}/speed"))
        except OSError as error:  # EINVAL while the link is down, and from drivers that have no speed
            return f"its speed cannot be read ({error.strerror})"
        return "its driver does not know the speed" if speed is None else speed

    def _up(self, name: str) -> float | str:
        try:
            state = read_text(self._root, f"sys/class/net/{name}/operstate").strip()
        except OSError as error:
            return f"its state cannot be read ({error.strerror})"
        return "its driver does not know the state" if state == "unknown" else float(state == "up")
