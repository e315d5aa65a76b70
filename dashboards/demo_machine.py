"""A recording of a node with eight H100s that work, made from the machine under tests/fixtures: no such machine ran.

Its files and its driver's readings move as those of a training would: counters grow, one device is allocated and idle,
one is too hot, one is lost, a port is congested. `tokenstone agent --replay` plays it.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LINE = re.compile(r"(?P<metric>accel_\w+|tokenstone_metric_absent)\{(?P<labels>.*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Readings = list[list[Any]]
Move = Callable[[str, float], str]
"""A file's text at the start, and seconds since -> its text then."""

_PER_SECOND = {
    "accel_energy_joules_total": 640.0,
    "accel_link_bytes_total": 2.0e11,
    "accel_throttled_seconds_total": 0.0,
    "accel_errors_total": 0.0,
}
_IDLE_WATTS = 90.0
_IDLE_INDEX, _HOT_INDEX = "5", "2"


def write(folder: Path, fixtures: Path, golden: Path, *, seconds: int, every_seconds: int) -> None:
    """Write a recording of that length into an empty folder."""
    shutil.copytree(fixtures, folder, dirs_exist_ok=True)
    (folder / "nvml.scenario").unlink(missing_ok=True)
    driver = _driver(golden.read_text(encoding="utf-8"))
    moving = {name: (folder / name).read_text(encoding="utf-8") for name in _files(folder)}
    (folder / "readings").mkdir()
    (folder / "readings/nvml.json").write_text(json.dumps(_at(driver, 0.0)), encoding="utf-8")
    with gzip.open(folder / "changes.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as changes:
        for second in range(every_seconds, seconds + 1, every_seconds):
            files = {name: _move(name)(text, float(second)) for name, text in moving.items()}
            files["readings/nvml.json"] = json.dumps(_at(driver, float(second)))
            changes.write(json.dumps({"seconds": float(second), "files": files}) + "\n")
    index = {"format": 1, "node": "h100-node", "unix_seconds": time.time(), "sources": [], "seconds": float(seconds)}
    (folder / "recording.json").write_text(json.dumps(index), encoding="utf-8")


def devices(golden: Path) -> dict[str, bool]:
    """The node's devices, and whether each has an energy counter."""
    driver = _driver(golden.read_text(encoding="utf-8"))
    counted = {device for metric, _, device, _ in driver["readings"] if metric == "accel_energy_joules_total"}
    return {device["id"]: device["id"] in counted for device in driver["devices"]}


def _driver(golden: str) -> dict[str, Any]:
    """What the driver's source gave, from the metrics that an agent served."""
    readings: Readings = []
    absences, models = [], {}
    for line in golden.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        labels = dict(_LABEL.findall(found["labels"]))
        device = labels.pop("device")
        labels.pop("node")
        if found["metric"] == "accel_info":
            models[device] = labels
        elif found["metric"] == "tokenstone_metric_absent":
            if labels["source"] == "nvml":
                absences.append([labels["metric"], labels["reason"], device])
        elif "allocated" not in found["metric"]:  # that is told by the job manager
            readings.append([found["metric"], float(found["value"]), device, labels])
    devices = [
        {"id": name, "kind": "accelerator", "vendor": model["vendor"], "model": model["model"],
         "index": int(model["index"]), "memory_bytes": None}
        for name, model in models.items()
    ]  # fmt: skip
    return {"error": None, "readings": readings, "absences": absences, "devices": devices}


def _at(driver: dict[str, Any], seconds: float) -> dict[str, Any]:
    index = {device["id"]: str(device["index"]) for device in driver["devices"]}
    moved = [
        [metric, _value(metric, value, index.get(device, ""), labels, seconds), device, labels]
        for metric, value, device, labels in driver["readings"]
    ]
    return driver | {"readings": moved}


def _value(  # noqa: PLR0911  a table
    metric: str, value: float, index: str, labels: dict[str, str], seconds: float
) -> float:
    """A training's step lasts 20 s, and devices are a little out of step."""
    wave = math.sin(2 * math.pi * (seconds + 1.3 * float(index or 0)) / 20)
    hot = index == _HOT_INDEX and labels.get("reason") == "hardware_thermal"
    held = 35 * (seconds // 60) + min(seconds % 60, 35.0)
    if hot:
        return value + held if metric == "accel_throttled_seconds_total" else float(seconds % 60 < 35)
    if metric == "accel_errors_total" and labels["type"] == "ecc_corrected" and index == "1":
        return value + seconds // 15
    if labels.get("link") == "pcie":
        return value + 1.2e9 * seconds if metric == "accel_link_bytes_total" else value
    if metric in _PER_SECOND:
        return value + (_IDLE_WATTS if index == _IDLE_INDEX and "energy" in metric else _PER_SECOND[metric]) * seconds
    if index == _IDLE_INDEX:
        return 0.0 if "_active" in metric else value
    if metric in {"accel_sm_active_ratio", "accel_tensor_active_ratio", "accel_memory_bandwidth_ratio"}:
        return min(1.0, max(0.0, value * (0.9 + 0.12 * wave)))
    if metric in {"accel_power_watts", "accel_power_instant_watts", "accel_link_bytes_per_second"}:
        return value * (0.95 + 0.05 * wave)
    return value


def _files(folder: Path) -> list[str]:
    patterns = ("proc/stat", "proc/diskstats", "proc/net/dev", "proc/pressure/*", "tools/ethtool*",
                "sys/class/infiniband/*/ports/*/counters/port_*_data",
                "sys/class/infiniband/*/ports/*/counters/port_*_packets",
                "sys/class/infiniband/*/ports/*/counters/port_xmit_wait")  # fmt: skip
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in found)


def _move(name: str) -> Move:
    if "infiniband" in name:
        words = 9.1e9 / 4  # data is counted in words of 4 bytes
        rate = words if name.endswith("_data") else 2.4e6 if name.endswith("_packets") else 4.5e6
        return _grown(r"^()(\d+)", {2: rate})
    if name == "proc/stat":
        return _grown(r"^(cpu\d* +)(\d+)( \d+ \d+ )(\d+)", {2: 640.0, 4: 160.0})
    if name == "proc/diskstats":
        return _grown(r"^( *\d+ +\d+ nvme0n1 \d+ \d+ )(\d+)( \d+ \d+ \d+ )(\d+)( \d+ \d+ )(\d+)",
                      {2: 1.6e6, 4: 9e5, 6: 310.0})  # fmt: skip
    if name == "proc/net/dev":
        return _grown(r"^( *ens1f0np0: *)(\d+)((?: +\d+){7} +)(\d+)", {2: 2.2e8, 4: 1.9e8})
    if name.startswith("proc/pressure"):
        return _grown(r"^(some.*total=)(\d+)", {2: 40_000.0})
    return _grown(r"^(\s+rx_prio3_pause_duration: )(\d+)", {2: 62_000.0})


def _grown(pattern: str, rates: dict[int, float]) -> Move:
    """Let some groups of a line's pattern, which divide all that it matches, grow by so much a second."""

    def at(text: str, seconds: float) -> str:
        def grow(found: re.Match[str]) -> str:
            parts = (found[i + 1] for i in range(len(found.groups())))
            return "".join(
                str(int(part) + int(rates[number] * seconds)) if number in rates else part
                for number, part in enumerate(parts, 1)
            )

        return re.sub(pattern, grow, text, flags=re.MULTILINE)

    return at
