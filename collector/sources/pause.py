"""Pause frames of network interfaces, by `ethtool -S`: how often and how long a receiver made its sender wait.

Each driver has its own names: mlx5 (rx_prio3_pause, rx_prio3_pause_duration in microseconds, rx_pause_ctrl_phy),
bnxt_en (rx_pause_frames, rx_pfc_ena_frames_pri3), ice and i40e (rx_priority_3_xoff, link_xoff_rx). Nothing else of the
hundreds of statistics is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, Commands
from tokenstone.sample import HOST, Absence, Reading, labels

_TOOL = "ethtool"
_FRAMES = "network_pause_frames_total"
_SECONDS = "network_pause_seconds_total"
_PATTERNS = (
    (re.compile(r"(rx|tx)_prio(\d)_pause"), _FRAMES),
    (re.compile(r"(rx|tx)_prio(\d)_pause_duration"), _SECONDS),
    (re.compile(r"(rx|tx)_pfc_ena_frames_pri(\d)"), _FRAMES),
    (re.compile(r"(rx|tx)_priority_(\d)_xoff(?:\.nic)?"), _FRAMES),
    (re.compile(r"(rx|tx)_pause_(?:ctrl_phy|frames)()"), _FRAMES),
    (re.compile(r"link_xoff_(rx|tx)(?:\.nic)?()"), _FRAMES),
    (re.compile(r"(rx|tx)_global_pause_duration()"), _SECONDS),
)


def parse_statistics(text: str) -> Iterator[tuple[str, str, str, float]]:
    """Parse `ethtool -S` to metric, direction, priority ("all" where frames stop every priority) and value."""
    for line in text.splitlines():
        name, colon, value = line.strip().rpartition(":")
        if not colon or not value.strip().isdigit():
            continue
        for pattern, metric in _PATTERNS:
            match = pattern.fullmatch(name)
            if match:
                direction = match[1]
                factor = 1e-6 if metric == _SECONDS else 1.0
                yield metric, direction, match[2] or "all", int(value) * factor
                break


class PauseSource(Source):
    """Pause frames of every interface with hardware behind it."""

    name = "pause"
    metrics = (_FRAMES, _SECONDS)
    every_seconds = 30.0
    deadline_seconds = 4 * DEADLINE_SECONDS

    def __init__(self, root: Path, commands: Commands) -> None:
        self._root, self._run = root, commands

    def read(self) -> Parts:
        """Ask the tool for each interface; a node without it is no failure."""
        interfaces = sorted(path.parent.name for path in (self._root / "sys/class/net").glob("*/device"))
        if not interfaces:
            return Parts(
                absences=tuple(Absence(metric, "no interface has hardware behind it") for metric in self.metrics)
            )
        readings: list[Reading] = []
        absences: list[Absence] = []
        for interface in interfaces:
            reason = f"{interface}: its driver counts none"
            try:
                values = list(parse_statistics(self._run(_TOOL, ["-S", interface])))
            except SourceUnavailable as error:
                values, reason = [], f"{interface}: {error}"
            for metric, direction, priority, value in values:
                by = labels(interface=interface, direction=direction, priority=priority)
                readings.append(Reading(metric, value, HOST, by))
            given = {value[0] for value in values}
            absences += [Absence(metric, reason) for metric in self.metrics if metric not in given]
        return Parts(tuple(readings), tuple(absences))
