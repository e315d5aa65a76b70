"""Baidu Kunlunxin accelerators, by `xpu-smi -m`: one line of columns for each device.

Which column is which is what users recorded (SwanLab reads the same ones): 1 device, 4 temperature, 8 power,
17 and 18 memory used and total in MiB, 19 load, and the name in quotes. Intel's tool has the same name and takes no
`-m`; its answers are refused.
"""

from __future__ import annotations

import shlex

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "xpu-smi"
_COLUMNS = 22


def parse_machine_readable(text: str) -> list[Found]:
    """Parse `xpu-smi -m`; SourceUnavailable where a line is not of this form: columns may not be guessed."""
    found: list[Found] = []
    for line in text.splitlines():
        try:
            cells = shlex.split(line)
        except ValueError:
            cells = line.split()
        if not cells:
            continue
        if len(cells) < _COLUMNS or not cells[1].isdigit() or number(cells[18]) is None:
            raise SourceUnavailable(f"{_TOOL}: its answer is not that of Kunlunxin's tool")
        device = Found(
            cells[0].lower() if ":" in cells[0] else f"kunlun-{cells[1]}", "Kunlunxin", cells[21], int(cells[1])
        )
        device.put("accel_temperature_celsius", number(cells[4]))
        device.put("accel_power_watts", number(cells[8]))
        device.put("accel_memory_used_bytes", number(cells[17]), MEBIBYTE)
        device.put("accel_memory_total_bytes", number(cells[18]), MEBIBYTE)
        device.put("accel_busy_ratio", number(cells[19]), 0.01)
        found.append(device)
    return found


class KunlunSource(Source):
    """All Kunlunxin devices of the node."""

    name = "kunlun"
    metrics = (
        "accel_busy_ratio",
        "accel_temperature_celsius",
        "accel_power_watts",
        "accel_memory_used_bytes",
        "accel_memory_total_bytes",
    )
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 2 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing, fails, finds no device or is another maker's."""
        return make_parts(parse_machine_readable(self._run(_TOOL, ["-m"])), self.metrics, _TOOL)
