"""Local file systems: which are mounted (/proc/.../mountinfo), how large they are and what is left (statvfs).

Network file systems are left to their own sources: asking a dead server for its size blocks for minutes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from collector.sources.base import Parts, Source, SourceUnavailable, read_text
from tokenstone.sample import Absence, Reading, labels

_SIZE = "filesystem_size_bytes"
_AVAILABLE = "filesystem_available_bytes"
_READ_ONLY_IMAGES = {"squashfs", "iso9660", "erofs"}
_POOLED = {"zfs", "btrfs", "bcachefs"}
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: `device` is the kernel's major:minor number."""

    mountpoint: str
    device: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse mountinfo (proc(5)); lines of another form are left out."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if dash and len(left) >= 6 and len(right) >= 2:
            mountpoint = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), left[4])
            mounts.append(Mount(mountpoint, left[2], right[0], right[1]))
    return mounts


def local_mounts(mounts: list[Mount]) -> list[Mount]:
    """Keep what is on this node's own disks, and `/` whatever it is on; of several mounts of one, the shortest path."""
    kept: dict[str, Mount] = {}
    for mount in sorted(mounts, key=lambda mount: (len(mount.mountpoint), mount.mountpoint)):
        on_disk = mount.source.startswith("/dev/") or mount.kind in _POOLED
        if (on_disk and mount.kind not in _READ_ONLY_IMAGES) or mount.mountpoint == "/":
            kept.setdefault(mount.device, mount)
    return list(kept.values())


class FilesystemSource(Source):
    """Size of each local file system and the space that an ordinary user can still take."""

    name = "filesystem"
    metrics = (_SIZE, _AVAILABLE)
    every_seconds = 10.0

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> Parts:
        """Measure every local file system; SourceUnavailable where no mount table can be read."""
        readings: list[Reading] = []
        absences: list[Absence] = []
        for mount in local_mounts(self._mounts()):
            measured = self._measure(mount)
            by = labels(mountpoint=mount.mountpoint)
            if isinstance(measured, str):
                absences += [Absence(metric, f"{mount.mountpoint}: {measured}") for metric in self.metrics]
            else:
                readings += [Reading(metric, measured[metric], labels=by) for metric in self.metrics]
        if not readings and not absences:
            absences = [Absence(metric, "no local file system is mounted") for metric in self.metrics]
        return Parts(tuple(readings), tuple(absences))

    def _mounts(self) -> list[Mount]:
        # In a container that sees the host's processes, process 1 has the host's mounts and we have our own.
        for path in ("proc/1/mountinfo", "proc/self/mountinfo"):
            try:
                return parse_mountinfo(read_text(self._root, path))
            except OSError:
                continue
        raise SourceUnavailable("/proc/1/mountinfo and /proc/self/mountinfo cannot be read")

    def _measure(self, mount: Mount) -> dict[str, float] | str:
        path = self._root / mount.mountpoint.lstrip("/")
        try:
            device = path.stat().st_dev
            # Below another root, the folder may be just a folder: the size of what it lies on would be invented.
            if self._root != Path("/") and f"{os.major(device)}:{os.minor(device)}" != mount.device:
                return "its file system is not mounted below the agent's root"
            space = os.statvfs(path)
        except OSError as error:
            return f"it cannot be measured ({error.strerror})"
        return {
            _SIZE: float(space.f_blocks * space.f_frsize),
            _AVAILABLE: float(space.f_bavail * space.f_frsize),
        }
