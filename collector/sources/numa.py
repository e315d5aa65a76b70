"""NUMA nodes: their memory, and where allocations landed. /sys/devices/system/node (admin-guide/numastat.rst)."""

from __future__ import annotations

import re
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from tokenstone.sample import HOST, Absence, Reading, labels

_FOLDER = "sys/devices/system/node"
_LINE = re.compile(r"Node \d+ (\w+):\s+(\d+) kB")
_SIZES = {"MemTotal": "host_numa_memory_total_bytes", "MemFree": "host_numa_memory_free_bytes"}
_PAGES = "host_numa_pages_total"
_EVENTS = {
    "local_node": "local",  # of a process that runs there
    "other_node": "remote",  # of a process that runs elsewhere
    "numa_foreign": "sent_away",  # wanted here, and there was no room
}


def parse_meminfo(text: str) -> dict[str, int]:
    """Parse a node's meminfo to bytes by field.

    >>> parse_meminfo("Node 0 MemTotal:       2 kB\\nNode 0 HugePages_Total:     0\\n")
    {'MemTotal': 2048}
    """
    return {match[1]: int(match[2]) * 1024 for match in _LINE.finditer(text)}


def parse_numastat(text: str) -> dict[str, int]:
    """Parse a node's numastat to pages by event; lines of another form are left out."""
    fields = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in fields if len(pair) == 2 and pair[1].isdigit()}


class NumaSource(Source):
    """Size and free memory of each NUMA node, and pages allocated on the near or the far one."""

    name = "numa"
    metrics = (*_SIZES.values(), _PAGES)
    every_seconds = 5.0

    def __init__(self, root: Path) -> None:
        self._root, self._files = root, Files(root)
        self._nodes: list[str] | None = None

    def read(self) -> Parts:
        """Read all nodes; raises OSError. A kernel without NUMA is no failure."""
        if self._nodes is None:
            # Nodes do not come and go while a kernel runs, but for hot-plugged memory, which a restart finds.
            folders = (self._root / _FOLDER).glob("node[0-9]*")
            self._nodes = sorted((path.name for path in folders), key=lambda name: int(name[4:]))
        readings: list[Reading] = []
        absences: list[Absence] = []
        for node in self._nodes:
            sizes = parse_meminfo(self._files.text(f"{_FOLDER}/{node}/meminfo"))
            by = labels(numa=node[4:])
            readings += [Reading(metric, sizes[name], HOST, by) for name, metric in _SIZES.items() if name in sizes]
            try:
                pages = parse_numastat(self._files.text(f"{_FOLDER}/{node}/numastat"))
            except OSError as error:
                absences.append(Absence(_PAGES, f"{node}: numastat cannot be read ({error.strerror})"))
                continue
            readings += [
                Reading(_PAGES, pages[name], HOST, labels(numa=node[4:], event=event))
                for name, event in _EVENTS.items()
                if name in pages
            ]
        if not self._nodes:
            absences = [Absence(metric, "this kernel shows no NUMA nodes") for metric in self.metrics]
        return Parts(tuple(readings), tuple(absences))

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._nodes = None
