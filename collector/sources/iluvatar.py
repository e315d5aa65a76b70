"""Iluvatar CoreX accelerators, by `ixsmi --query-gpu=... --format=csv`.

The answer is a table with a heading of names and units, a line a device. The names of the columns are those that
ixsmi takes in its query, as users recorded them (SwanLab asks the same).
"""

from __future__ import annotations

import csv
import io

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "ixsmi"
_VALUES = {
    "utilization.gpu": ("accel_busy_ratio", 0.01),
    "memory.used": ("accel_memory_used_bytes", MEBIBYTE),
    "memory.total": ("accel_memory_total_bytes", MEBIBYTE),
    "temperature.gpu": ("accel_temperature_celsius", 1.0),
    "board.power.draw": ("accel_power_watts", 1.0),
}
_QUERY = ("index", "uuid", "name", *_VALUES)


def parse_query(text: str) -> list[Found]:
    """Parse the answer; SourceUnavailable where its columns are not those that were asked for."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    names = [cell.split(" ")[0] for cell in rows[0]] if rows else []
    if tuple(names) != _QUERY:
        raise SourceUnavailable(f"{_TOOL}: its answer has not the columns that were asked for")
    found: list[Found] = []
    for row in rows[1:]:
        cells = dict(zip(names, row, strict=False))
        if len(row) != len(names) or not cells["index"].isdigit():
            continue
        index = int(cells["index"])
        uuid = cells["uuid"] if number(cells["uuid"]) is None and len(cells["uuid"]) > 8 else f"iluvatar-{index}"
        device = Found(uuid, "Iluvatar CoreX", cells["name"], index)
        for name, (metric, factor) in _VALUES.items():
            device.put(metric, number(cells[name]), factor)
        found.append(device)
    return found


class IluvatarSource(Source):
    """All CoreX devices of the node."""

    name = "iluvatar"
    metrics = tuple(metric for metric, _ in _VALUES.values())
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 2 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing, fails or finds no device."""
        text = self._run(_TOOL, [f"--query-gpu={','.join(_QUERY)}", "--format=csv"])
        return make_parts(parse_query(text), self.metrics, _TOOL)
