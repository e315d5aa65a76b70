"""Network interfaces: /proc/net/dev, and speed and state below /sys/class/net."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from collector.sources.base import Parts, Source, read_text
from collector.sources.files import Files
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
LOOK_SECONDS = 10.0
"""How often interfaces are looked for, and asked for speed and state."""
_UNKNOWN_SPEEDS = {-1, 0, 0xFFFFFFFF}


def parse_net_dev(text: str) -> dict[str, tuple[int, ...]]:
    """Parse /proc/net/dev to the sixteen counters of each interface. Lines that have not sixteen are left out."""
    counters: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        name, colon, values = line.rpartition(":")
        numbers = values.split()
        if colon and len(numbers) == _COLUMNS and "".join(numbers).isdigit():
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

    def __init__(self, root: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._root, self._monotonic, self._files = root, monotonic, Files(root)
        self._names: list[str] = []
        self._counted: tuple[str, ...] = ()
        self._links: tuple[list[Reading], list[Absence]] = ([], [])
        self._look_at = 0.0

    def read(self) -> Parts:
        """Read all interfaces; raises OSError where /proc/net/dev cannot be read."""
        counters = parse_net_dev(self._files.text("proc/net/dev"))
        now, there = self._monotonic(), tuple(counters)
        is_time = there != self._counted or now >= self._look_at
        if is_time:
            self._counted, self._look_at = there, now + LOOK_SECONDS
            self._look()
        readings = [
            Reading(metric, counters[name][column], labels=by)
            for name in self._names
            for by in (labels(interface=name),)
            for column, metric in _COUNTERS.items()
        ]
        links, absences = self._links
        if is_time:
            return Parts(tuple(readings + links), tuple(absences))
        return Parts(tuple(readings), tuple(absences), held=tuple(links))

    def _look(self) -> None:
        """Find the interfaces with hardware, and ask each for its speed and state.

        Not at every tick: the kernel answers under the lock that configuring the network needs.
        """
        names = [name for name in self._counted if name != "lo"]
        self._names = [name for name in names if (self._root / "sys/class/net" / name / "device").exists()] or names
        readings: list[Reading] = []
        absences: list[Absence] = []
        for name in self._names:
            for metric, value in ((_SPEED, self._speed(name)), (_UP, self._up(name))):
                if isinstance(value, str):
                    absences.append(Absence(metric, f"{name}: {value}"))
                else:
                    readings.append(Reading(metric, value, labels=labels(interface=name)))
        if not self._names:
            why = "this node has no network interface but the loopback"
            absences = [Absence(metric, why) for metric in self.metrics]
        self._links = readings, absences

    def close(self) -> None:
        """Close the file, and look at the interfaces anew."""
        self._files.close()
        self._counted = ()

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
