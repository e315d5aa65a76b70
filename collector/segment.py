"""The file of one batch while it waits: a gzip stream of lines, one for each interval, that can grow.

The first line says whose batch it is; each further one holds the windows of an interval as columns. What an
interval shares with the one before (series, devices, absences) is not said again, and the stream's own memory
takes care of the rest, so that an interval of 900 series takes a few kilobytes. Every line ends in its checksum
and is flushed whole: after a kill at any instant the file holds whole lines and at most one torn one, which is
not read. `zcat` shows it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 6

Record = dict[str, Any]


class SegmentWriter:
    """Appends lines to a new file. After an OSError it is closed, and the file holds what was appended before."""

    def __init__(self, path: Path, head: Record) -> None:
        self._zip = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self.size = self.records = 0
        try:
            self._write(_line(head))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def append(self, record: Record) -> None:
        """Add a line; when this returns, it is on the disk."""
        self._write(_line(record))
        self.records += 1

    def _write(self, line: bytes) -> None:
        data = self._zip.compress(line) + self._zip.flush(zlib.Z_SYNC_FLUSH)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            # Half a line would be followed by nothing readable, and a whole one would be counted twice.
            try:
                os.ftruncate(self._file, self.size)
            finally:
                self.close()
            raise
        self.size += len(data)

    def close(self) -> None:
        """End it: nothing is appended any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def pack(head: Record, records: list[Record]) -> bytes:
    """Return the bytes of a segment with these records."""
    return zlib.compress(b"".join(_line(record) for record in (head, *records)), _LEVEL, wbits=_GZIP)


def unpack(data: bytes) -> Iterator[Record]:
    """Yield the head and the records of a segment, up to the first line that is not whole."""
    unzip = zlib.decompressobj(_GZIP)
    text = bytearray()
    try:
        for start in range(0, len(data), 65_536):
            text += unzip.decompress(data[start : start + 65_536])
    except zlib.error:
        pass  # garbage after a loss of power; what came before it is whole
    for line in bytes(text).split(b"\n")[:-1]:
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            return
        yield json.loads(body)


def _line(record: Record) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)
