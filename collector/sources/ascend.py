"""Huawei Ascend accelerators, by `npu-smi`.

The outputs are those of Huawei's reference of npu-smi (hiascend.com, "npu-smi info" and "-t usages"). A table has two
lines a chip, under a heading of two lines; the headings say what the columns are, because they differ by product.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collector.sources.accelerator import MEBIBYTE, Found, make_parts, number
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, EVERY_SECONDS, Commands

_TOOL = "npu-smi"
_PAIR = re.compile(r"(\d+)\s*/\s*(\d+)")
_COLUMN = re.compile(r"\S+(?: \S+)*")
_METRICS = (
    "accel_busy_ratio",
    "accel_memory_used_bytes",
    "accel_memory_total_bytes",
    "accel_memory_bandwidth_ratio",
    "accel_power_watts",
    "accel_temperature_celsius",
    "accel_healthy_ratio",
)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _rows(text: str) -> Iterator[list[str]]:
    """Yield the three cells of every line of the first table; the table of processes ends it."""
    for line in text.splitlines():
        if "Process id" in line:
            return
        cells = _cells(line)
        if line.lstrip().startswith("|") and len(cells) == 3:
            yield cells


def parse_info(text: str) -> list[Found]:
    """Parse `npu-smi info`; SourceUnavailable where it holds no table of this form."""
    rows = list(_rows(text))
    heads = [_COLUMN.findall(row[2]) for row in rows[:2]]
    if len(heads) < 2 or not any("Power" in name for name in heads[0]):
        raise SourceUnavailable(f"{_TOOL}: its answer has no table of devices")
    found: list[Found] = []
    for upper, lower in zip(rows[2::2], rows[3::2], strict=False):
        index, _, model = upper[0].partition(" ")
        chip = lower[0].split()
        if not index.isdigit() or not chip:
            continue
        bus = lower[1] if ":" in lower[1] else ""
        device = Found(bus or f"ascend-{index}-{chip[0]}", "Huawei", model.strip(), len(found))
        device.put("accel_healthy_ratio", None if upper[1] == "UNKNOWN" else float(upper[1] == "OK"))
        power, temperature = [*upper[2].split(), "", ""][:2]
        device.put("accel_power_watts", number(power))
        device.put("accel_temperature_celsius", number(temperature))
        device.put("accel_busy_ratio", number((lower[2].split() or [""])[0]), 0.01)
        # The last pair is the memory on the package, where a product has DDR beside it; one pair is all there is.
        pairs = _PAIR.findall(lower[2])
        if pairs and int(pairs[-1][1]):
            device.put("accel_memory_used_bytes", int(pairs[-1][0]), MEBIBYTE)
            device.put("accel_memory_total_bytes", int(pairs[-1][1]), MEBIBYTE)
        device.why["accel_memory_bandwidth_ratio"] = f"{index} {chip[0]}"
        found.append(device)
    return found


def parse_usages(text: str) -> float | None:
    """Parse `npu-smi info -t usages` to the share of the memory's bandwidth in use, 0 to 1; None where it is not told.

    >>> parse_usages("   HBM Bandwidth Usage Rate(%)    : 37\\n")
    0.37
    """
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "HBM Bandwidth Usage Rate(%)":
            percent = number(value)
            return None if percent is None else percent / 100
    return None


class AscendSource(Source):
    """All Ascend chips of the node."""

    name = "ascend"
    metrics = _METRICS
    measures = True
    every_seconds = EVERY_SECONDS
    deadline_seconds = 4 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands

    def read(self) -> Parts:
        """Ask the tool: once for all, and once for each chip, because only then it tells the memory's bandwidth."""
        found = parse_info(self._run(_TOOL, ["info"]))
        for device in found:
            npu, chip = device.why.pop("accel_memory_bandwidth_ratio").split()
            try:
                usage = parse_usages(self._run(_TOOL, ["info", "-t", "usages", "-i", npu, "-c", chip]))
                device.put("accel_memory_bandwidth_ratio", usage)
            except SourceUnavailable as error:
                device.why["accel_memory_bandwidth_ratio"] = str(error)
        return make_parts(found, self.metrics, _TOOL)
