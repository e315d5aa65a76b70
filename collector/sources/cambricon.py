"""Cambricon MLU accelerators, by `cnmon info`.

It prints indented sections for each card (Cambricon's cnmon user guide): "Card 0", "Utilization", "MLU Average : 3 %".
"""

from __future__ import annotations

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "cnmon"
# Section and key, as the tool writes them, with the metric and the factor to its unit.
_VALUES = {
    ("Utilization", "MLU Average"): ("accel_busy_ratio", 0.01),
    ("Physical Memory Usage", "Total"): ("accel_memory_total_bytes", MEBIBYTE),
    ("Physical Memory Usage", "Used"): ("accel_memory_used_bytes", MEBIBYTE),
    ("Temperature", "Chip"): ("accel_temperature_celsius", 1.0),
    ("Power", "Usage"): ("accel_power_watts", 1.0),
    ("Power", "Cap"): ("accel_power_limit_watts", 1.0),
}


def parse_info(text: str) -> list[Found]:
    """Parse `cnmon info` to the cards in it, in its order."""
    found: list[Found] = []
    section = ""
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        words = key.split()
        if not colon and len(words) == 2 and words[0] == "Card" and words[1].isdigit():
            found.append(Found(f"cambricon-{words[1]}", "Cambricon", "MLU", int(words[1])))
            section = ""
        elif not found or not key:
            continue
        elif not colon or not value:
            section = key
        elif key == "Product Name":
            found[-1].model = value
        elif key == "UUID":
            found[-1].id = value
        elif (section, key) in _VALUES:
            metric, factor = _VALUES[section, key]
            found[-1].put(metric, number(value), factor)
    return found


class CambriconSource(Source):
    """All MLU cards of the node."""

    name = "cambricon"
    metrics = tuple(metric for metric, _ in _VALUES.values())
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 2 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool; SourceUnavailable where it is missing, fails or finds no card."""
        return make_parts(parse_info(self._run(_TOOL, ["info"])), self.metrics, _TOOL)
