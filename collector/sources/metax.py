"""MetaX accelerators, by the table that `mx-smi` prints: two lines a device.

The form is that of mx-smi 2.1 as users show it in public (gpustack's issue 4832): index, name, bus and load on the
first line; temperature, power of its limit, and memory on the second.
"""

from __future__ import annotations

import re

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "mx-smi"
_FIRST = re.compile(r"\|\s*(\d+)\s+(\S.*?)\s*\|\s*([0-9a-fA-F]{4}:[0-9a-fA-F:.]+)\s*\|\s*(\S+)")
_SECOND = re.compile(r"\|\s*(\S+)\s+(\S+)\s*/\s*(\S+)\s*\|\s*(\S+)\s*/\s*(\d+)\s*MiB")


def parse_table(text: str) -> list[Found]:
    """Parse what `mx-smi` prints to the devices in it; lines of another form are left out."""
    found: list[Found] = []
    for line in text.splitlines():
        first, second = _FIRST.match(line), _SECOND.match(line)
        if first:
            found.append(Found(first[3].lower(), "MetaX", first[2], int(first[1])))
            found[-1].put("accel_busy_ratio", number(first[4]), 0.01)
        elif second and found:
            device = found[-1]
            device.put("accel_temperature_celsius", number(second[1]))
            device.put("accel_power_watts", number(second[2]))
            device.put("accel_power_limit_watts", number(second[3]))
            device.put("accel_memory_used_bytes", number(second[4]), MEBIBYTE)
            device.put("accel_memory_total_bytes", number(second[5]), MEBIBYTE)
    return found


class MetaxSource(Source):
    """All MetaX devices of the node."""

    name = "metax"
    metrics = (
        "accel_busy_ratio",
        "accel_temperature_celsius",
        "accel_power_watts",
        "accel_power_limit_watts",
        "accel_memory_used_bytes",
        "accel_memory_total_bytes",
    )
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 2 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing, fails or finds no device."""
        return make_parts(parse_table(self._run(_TOOL, [])), self.metrics, _TOOL)
