"""The host's memory: /proc/meminfo."""

from __future__ import annotations

from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import Absence, Reading

_FIELDS = {"MemTotal": "host_memory_total_bytes", "MemAvailable": "host_memory_available_bytes"}


def parse_meminfo(text: str) -> dict[str, int]:
    """Parse /proc/meminfo to bytes by field. Fields that are no amount of memory are left out.

    >>> parse_meminfo("MemTotal:  2 kB\\nHugePages_Total:  0\\n")
    {'MemTotal': 2048}
    """
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        if line.endswith(" kB"):
            name, _, value = line[:-3].partition(":")
            number = value.strip()
            if number.isdigit():
                sizes[name] = int(number) * 1024
    return sizes


class MemorySource(Source):
    """Memory that the host has, and that programs could still take."""

    name = "memory"
    metrics = tuple(_FIELDS.values())

    def __init__(self, root: Path) -> None:
        self._files = Files(root)

    def read(self) -> Parts:
        """Read the host's memory; raises OSError."""
        sizes = parse_meminfo(self._files.text("proc/meminfo"))
        readings = tuple(Reading(metric, sizes[field]) for field, metric in _FIELDS.items() if field in sizes)
        absences = tuple(
            Absence(metric, f"this kernel's /proc/meminfo has no {field}")
            for field, metric in _FIELDS.items()
            if field not in sizes
        )
        return Parts(readings, absences)

    def close(self) -> None:
        """Close the file."""
        self._files.close()
