"""Intel data-center accelerators, by `xpu-smi` of Intel XPU Manager: load, memory and power.

`discovery -j` names the devices and `dump` prints one line of comma-separated values for each, under a heading; the
headings are those of Intel's documentation (intel.github.io/xpumanager, "dump"). What the card cannot tell is N/A.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "xpu-smi"
_COLUMNS = {
    "GPU Utilization (%)": ("accel_busy_ratio", 0.01),
    "GPU EU Array Active (%)": ("accel_sm_active_ratio", 0.01),
    "GPU Power (W)": ("accel_power_watts", 1.0),
    "GPU Core Temperature (Celsius Degree)": ("accel_temperature_celsius", 1.0),
    "GPU Memory Bandwidth Utilization (%)": ("accel_memory_bandwidth_ratio", 0.01),
    "GPU Memory Used (MiB)": ("accel_memory_used_bytes", MEBIBYTE),
}
# The numbers that the tool gives to these columns.
_NUMBERS = "0,1,3,9,17,18"
# Version 1 calls it -n, version 2 --number.
_DUMPS = (
    ["dump", "-d", "-1", "-m", _NUMBERS, "-n", "1"],
    ["dump", "-d", "-1", "--metrics", _NUMBERS, "--number", "1"],
)


def parse_discovery(text: str) -> list[dict[str, Any]]:
    """Parse `discovery -j` to its list of devices; SourceUnavailable where it is not Intel's JSON."""
    try:
        devices = json.loads(text)["device_list"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise SourceUnavailable(f"{_TOOL}: its answer is not that of Intel's tool") from None
    return [device for device in devices if isinstance(device, dict) and "device_id" in device]


def parse_dump(text: str) -> dict[int, dict[str, str]]:
    """Parse `dump` to cells by heading of each device's last line."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    heads = next((row for row in rows if "DeviceId" in row), None)
    if heads is None:
        raise SourceUnavailable(f"{_TOOL}: its dump has no heading")
    place = heads.index("DeviceId")
    cells = (row for row in rows if len(row) == len(heads) and row[place].isdigit())
    return {int(row[place]): dict(zip(heads, row, strict=True)) for row in cells}


class IntelXpuSource(Source):
    """Load, memory, power and temperature of each Intel device."""

    name = "intel_xpu"
    metrics = (*(metric for metric, _ in _COLUMNS.values()), "accel_memory_total_bytes")
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 3 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing, fails, finds no device or is another maker's."""
        devices = parse_discovery(self._run(_TOOL, ["discovery", "-j"]))
        try:
            cells = parse_dump(self._run(_TOOL, _DUMPS[0]))
        except SourceUnavailable:
            cells = parse_dump(self._run(_TOOL, _DUMPS[1]))
        found: list[Found] = []
        for device in devices:
            index = int(device["device_id"])
            bus = str(device.get("pci_bdf_address") or f"intel-{index}").lower()
            card = Found(bus, "Intel", str(device.get("device_name", "")), index)
            for head, (metric, factor) in _COLUMNS.items():
                card.put(metric, number(cells.get(index, {}).get(head, "")), factor)
            total = number(str(device.get("memory_physical_size_byte", "")))
            card.put("accel_memory_total_bytes", total or None)
            found.append(card)
        return make_parts(found, self.metrics, _TOOL)
