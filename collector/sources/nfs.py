"""NFS mounts: /proc/PID/mountstats. Nothing is asked of the server, so a dead one cannot block.

The format is that of the kernel's net/sunrpc/stats.c and fs/nfs/super.c: a `device` line for each mount; for NFS, with
`statvers`, a line `bytes:` of eight counters and a line for each operation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from collector.sources.base import Parts, Source
from collector.sources.files import Files
from collector.sources.remote_storage import METRICS, RemoteUse, make_readings
from tokenstone.sample import Absence

_DEVICE = re.compile(r"device (.+) mounted on (\S+) with fstype (nfs4?) statvers=(\S+)")
_OPERATION = re.compile(r"\s+([A-Z_]+):((?: -?\d+){8,})\s*")


@dataclass(slots=True)
class NfsMount:
    """One mount: what it reads from and writes to its server, and its operations as (count, sends, seconds)."""

    mountpoint: str
    read_bytes: int = 0
    written_bytes: int = 0
    operations: dict[str, tuple[int, int, float]] = field(default_factory=dict)


def parse_mountstats(text: str) -> list[NfsMount]:
    """Parse mountstats to its NFS mounts; of several entries of one mount point, the last counts."""
    mounts: dict[str, NfsMount] = {}
    current: NfsMount | None = None
    for line in text.splitlines():
        if line.startswith("device "):
            match = _DEVICE.match(line)
            current = NfsMount(match[2].encode().decode("unicode_escape")) if match else None
            if current is not None:
                mounts[current.mountpoint] = current
        elif current is None:
            continue
        elif line.lstrip().startswith("bytes:"):
            numbers = line.split()[1:]
            if len(numbers) >= 6 and all(number.isdigit() for number in numbers[:6]):
                # The fifth and sixth are what went over the wire; those before count the cache's hits too.
                current.read_bytes, current.written_bytes = int(numbers[4]), int(numbers[5])
        else:
            match = _OPERATION.fullmatch(line)
            if match:
                # operations, transmissions, timeouts, bytes sent, bytes received, queue, round trip, execute in ms
                values = [int(number) for number in match[2].split()]
                current.operations[match[1]] = (values[0], values[1], values[7] / 1e3)
    return list(mounts.values())


class NfsSource(Source):
    """Bytes, operations, their time and retransmissions of each NFS mount."""

    name = "nfs"
    metrics = METRICS

    def __init__(self, root: Path) -> None:
        self._files = Files(root)

    def read(self) -> Parts:
        """Read all mounts. No NFS, or a kernel without it, is no failure."""
        text = self._text()
        mounts = parse_mountstats(text or "")
        if not mounts:
            reason = "this kernel has no mountstats" if text is None else "no NFS is mounted"
            return Parts(absences=tuple(Absence(metric, reason) for metric in METRICS))
        return Parts(tuple(reading for mount in mounts for reading in make_readings(_use(mount))))

    def _text(self) -> str | None:
        # In a container that sees the host's processes, process 1 has the host's mounts and we have our own.
        for path in ("proc/1/mountstats", "proc/self/mountstats"):
            try:
                return self._files.text(path)
            except OSError:
                continue
        return None

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _use(mount: NfsMount) -> RemoteUse:
    use = RemoteUse(mount.mountpoint, "nfs", mount.read_bytes, mount.written_bytes)
    use.retransmissions = 0
    for name, (count, sends, seconds) in mount.operations.items():
        use.add(name.lower() if name in {"READ", "WRITE"} else "metadata", count, seconds)
        use.retransmissions += max(sends - count, 0)
    return use
