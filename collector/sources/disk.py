"""Whole disks: /proc/diskstats. Partitions and stacked devices (loop, md, dm) would count the same bytes again."""

from __future__ import annotations

import re
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import Absence, Reading, labels

SECTOR_BYTES = 512
"""The unit of /proc/diskstats, whatever the sectors of the disk."""

# Columns after the name, with the factor to the metric's unit.
_COUNTERS = {
    0: ("disk_reads_completed_total", 1.0),
    2: ("disk_read_bytes_total", SECTOR_BYTES),
    4: ("disk_writes_completed_total", 1.0),
    6: ("disk_written_bytes_total", SECTOR_BYTES),
    9: ("disk_io_seconds_total", 1e-3),
}
_COLUMNS = 11

# For roots without /sys/block: the names that Linux gives to whole disks.
_DISK_NAME = re.compile(r"(sd|hd|vd|xvd|dasd)[a-z]+|nvme\d+n\d+|mmcblk\d+|pmem\d+")


def parse_diskstats(text: str) -> dict[str, dict[str, float]]:
    """Parse /proc/diskstats to values by metric of every device in it; lines of another form are left out."""
    devices: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        fields = line.split()
        values = fields[3 : 3 + _COLUMNS]
        if len(values) == _COLUMNS and "".join(values).isdigit():
            devices[fields[2]] = {metric: int(values[c]) * factor for c, (metric, factor) in _COUNTERS.items()}
    return devices


class DiskSource(Source):
    """Bytes, operations and busy time of each whole disk."""

    name = "disk"
    metrics = tuple(metric for metric, _ in _COUNTERS.values())

    def __init__(self, root: Path) -> None:
        self._root, self._files = root, Files(root)
        self._disks: dict[str, tuple[tuple[str, str], ...]] = {}
        self._names: tuple[str, ...] | None = None

    def read(self) -> Parts:
        """Read all disks; raises OSError. A node without disks is no failure."""
        devices = parse_diskstats(self._files.text("proc/diskstats"))
        names = tuple(devices)
        if names != self._names:  # a disk came or went
            self._disks = {name: labels(disk=name) for name in names if self._is_whole_disk(name)}
            self._names = names
        readings = tuple(
            Reading(metric, value, labels=by)
            for name, by in self._disks.items()
            for metric, value in devices[name].items()
        )
        absences = () if readings else tuple(Absence(metric, "this node has no disk") for metric in self.metrics)
        return Parts(readings, absences)

    def _is_whole_disk(self, name: str) -> bool:
        blocks = self._root / "sys/block"
        if blocks.is_dir():
            # A slash in a device's name is an exclamation mark in sysfs. Only hardware has a `device` entry.
            return (blocks / name.replace("/", "!") / "device").exists()
        return _DISK_NAME.fullmatch(name) is not None

    def close(self) -> None:
        """Close the file, and look at the disks anew."""
        self._files.close()
        self._names = None
