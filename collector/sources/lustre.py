"""Lustre clients: the `stats` file of each mounted file system (Lustre Operations Manual, "llite stats").

Where it is depends on the version: /proc/fs/lustre, /sys/kernel/debug/lustre or /sys/fs/lustre. Only files are read;
debugfs is for root alone, and a node that keeps it closed says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from collector.sources.remote_storage import METRICS, RemoteUse, make_readings
from tokenstone.sample import Absence

_FOLDERS = ("proc/fs/lustre/llite", "sys/kernel/debug/lustre/llite", "sys/fs/lustre/llite")
_RESCAN_SECONDS = 30.0
_DATA = {"read_bytes": "read", "write_bytes": "write"}
# Two more lines of the same reads and writes, and one that is no operation.
_NOT_METADATA = {"read", "write", "snapshot_time", "start_time", "elapsed_time"}


def parse_stats(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Parse `stats` to counts and sums by line: "read_bytes 3 samples [bytes] 1 4096 5000" is 3 and 5000.

    Times have no sum that means an operation's latency in all versions, so only bytes have one.
    """
    counts: dict[str, int] = {}
    sums: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[2] == "samples" and fields[1].isdigit():
            counts[fields[0]] = int(fields[1])
            if fields[3] == "[bytes]" and len(fields) >= 7 and fields[6].isdigit():
                sums[fields[0]] = int(fields[6])
    return counts, sums


class LustreSource(Source):
    """Bytes and operations of each mounted Lustre file system."""

    name = "lustre"
    metrics = METRICS[:3]

    def __init__(self, root: Path, monotonic: Callable[[], float]) -> None:
        self._root, self._monotonic = root, monotonic
        self._files = Files(root)
        self._stats: list[str] = []
        self._reason = ""
        self._scan_at = 0.0

    def read(self) -> Parts:
        """Read all file systems. No Lustre is no failure."""
        now = self._monotonic()
        if now >= self._scan_at:
            self._stats, self._reason = self._scan()
            self._scan_at = now + _RESCAN_SECONDS
        uses: list[RemoteUse] = []
        absences: list[Absence] = []
        for path in self._stats:
            # The folder is named after the file system and the address of its superblock: scratch-ffff8e3d2c1b0800.
            name = path.split("/")[-2].rpartition("-")[0] or path.split("/")[-2]
            try:
                counts, sums = parse_stats(self._files.text(path))
            except OSError as error:
                absences += [Absence(metric, f"{name}: {error.strerror}") for metric in self.metrics]
                continue
            # A file system that was never read or written has no such line: that is a true zero.
            use = RemoteUse(name, "lustre", sums.get("read_bytes", 0), sums.get("write_bytes", 0))
            for line, count in counts.items():
                if line in _DATA:
                    use.add(_DATA[line], count)
                elif line not in _NOT_METADATA and "_bytes" not in line:
                    use.add("metadata", count)
            uses.append(use)
        if not self._stats:
            absences = [Absence(metric, self._reason) for metric in self.metrics]
        return Parts(tuple(reading for use in uses for reading in make_readings(use)), tuple(absences))

    def _scan(self) -> tuple[list[str], str]:
        reason = "no Lustre is mounted"
        for folder in _FOLDERS:
            try:
                names = sorted(path.name for path in (self._root / folder).iterdir())
            except PermissionError:
                reason = f"/{folder} is closed to this user: run the agent as root, or open debugfs to it"
                continue
            except OSError:
                continue
            paths = [f"{folder}/{name}/stats" for name in names if (self._root / folder / name / "stats").is_file()]
            if paths:
                return paths, ""
        return [], reason

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._scan_at = 0.0
