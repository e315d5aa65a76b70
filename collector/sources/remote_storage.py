"""What the sources of file servers have in common: the same metrics, whatever the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenstone.sample import HOST, Reading, labels

METRICS = (
    "remote_storage_read_bytes_total",
    "remote_storage_written_bytes_total",
    "remote_storage_operations_total",
    "remote_storage_operation_seconds_total",
    "remote_storage_retransmissions_total",
)


@dataclass(slots=True)
class RemoteUse:
    """Use of one mounted file system of a server. Operations are `read`, `write` and `metadata`: all others."""

    filesystem: str
    protocol: str
    read_bytes: float
    written_bytes: float
    operations: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    retransmissions: int | None = None

    def add(self, operation: str, count: int, seconds: float | None = None) -> None:
        """Count operations, and the time they took where it is known."""
        self.operations[operation] = self.operations.get(operation, 0) + count
        if seconds is not None:
            self.seconds[operation] = self.seconds.get(operation, 0.0) + seconds


def make_readings(use: RemoteUse) -> Iterator[Reading]:
    """Yield the readings of one file system."""
    by = labels(filesystem=use.filesystem, protocol=use.protocol)
    yield Reading("remote_storage_read_bytes_total", use.read_bytes, HOST, by)
    yield Reading("remote_storage_written_bytes_total", use.written_bytes, HOST, by)
    for operation, count in use.operations.items():
        yield Reading("remote_storage_operations_total", count, HOST, labels(dict(by), operation=operation))
    for operation, seconds in use.seconds.items():
        yield Reading("remote_storage_operation_seconds_total", seconds, HOST, labels(dict(by), operation=operation))
    if use.retransmissions is not None:
        yield Reading("remote_storage_retransmissions_total", use.retransmissions, HOST, by)
