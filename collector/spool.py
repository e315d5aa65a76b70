"""Windows on disk until the service has taken them. Bounded: when it is full, the oldest go, and are counted.

A file is a batch, `<epoch>.<sequence>.batch` (see `collector.segment`). It grows by an interval at a time while
the service is away, and is closed for good before its first attempt to be handed over, so that a batch of one
name never changes once it may have been seen. Epochs begin with the time of their start, so names sort in order
of time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from collector.batch import Origin, RecordMaker, compress, head_of, whole, wire_batch
from collector.log import Log
from collector.segment import Record, SegmentWriter, pack, unpack
from tokenstone.errors import Conflict, NotWritable
from tokenstone.sample import Sample
from tokenstone.window import Window

_SUFFIX = ".batch"
_TEMPORARY = ".tmp"
_REJECTED_KEPT = 100
_RECORDS_A_BATCH = 60
_BYTES_A_BATCH = 1_000_000
_ATTEMPTS = 3
# Intervals kept in memory while the disk takes nothing.
_MEMORY_RECORDS = 60

log = Log()


class Spool:
    """A folder of waiting batches, held by one agent at a time. Safe for one writer and one reader thread.

    Raises NotWritable where the folder cannot be written, and Conflict where another agent holds it.
    """

    def __init__(self, folder: Path, max_bytes: int, origin: Origin) -> None:
        self._folder, self._rejected_folder = folder, folder / "rejected"
        self._max_bytes, self._origin = max_bytes, origin
        self._guard = threading.Lock()
        self._sequence = 0
        self._writer: SegmentWriter | None = None
        self._maker = RecordMaker()
        self._in_memory: dict[str, bytes] = {}
        # What a batch of one interval holds, so that the common case needs no reading of what was just written.
        self._latest: tuple[str, Record] | None = None
        try:
            self._rejected_folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = self._hold()
            for leftover in folder.glob(f"*{_TEMPORARY}"):
                leftover.unlink()
            names = sorted(path.name for path in folder.glob(f"*{_SUFFIX}"))
            self._sizes = OrderedDict((name, (folder / name).stat().st_size) for name in names)
        except OSError as error:
            raise NotWritable.of(
                "the spool cannot be written", error, where=str(folder), otherwise="choose another spool_dir"
            ) from None
        self._bytes = sum(self._sizes.values())
        self.dropped_batches = 0

    def _hold(self) -> IO[bytes]:
        handle = (self._folder / "lock").open("ab")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise Conflict(
                "another agent uses this spool", where=str(self._folder), hint="stop it, or choose another spool_dir"
            ) from None
        return handle

    @property
    def waiting_bytes(self) -> int:
        """Bytes of batches that wait."""
        return self._bytes

    @property
    def waiting_batches(self) -> int:
        """Number of batches that wait."""
        return len(self._sizes)

    # --- the writer's side

    def put(self, windows: Sequence[Window], samples: Sequence[Sample]) -> None:
        """Keep the windows of one interval; when this returns, a kill does not lose them.

        Where the disk takes nothing, they are kept in memory, as many as fit there.
        """
        with self._guard:
            for _ in range(_ATTEMPTS):
                try:
                    self._append(windows, samples)
                except OSError as error:
                    # Whoever filled the disk: the newest windows are worth more than the oldest.
                    why = error.strerror or str(error)
                    self._seal()
                    if not any(name not in self._in_memory for name in self._sizes):
                        break
                    self._drop_oldest(f"the disk takes no more ({why})")
                else:
                    return
            self._remember(windows, samples)

    def _append(self, windows: Sequence[Window], samples: Sequence[Sample]) -> None:
        if self._writer is not None and (
            self._writer.records >= _RECORDS_A_BATCH or self._writer.size >= min(_BYTES_A_BATCH, self._max_bytes // 4)
        ):
            self._seal()
        is_new = self._writer is None
        if self._writer is None:
            self._maker = RecordMaker()
            name = self._next_name()
            self._writer = SegmentWriter(self._folder / name, head_of(self._origin, self._sequence - 1))
            self._sizes[name] = 0
        record = self._maker.record(windows, samples)
        self._writer.append(record)
        if is_new:
            _sync_folder(self._folder)
        name = next(reversed(self._sizes))
        self._latest = (name, record) if is_new else None
        self._bytes += self._writer.size - self._sizes[name]
        self._sizes[name] = self._writer.size
        while self._bytes > self._max_bytes and len(self._sizes) > 1:
            self._drop_oldest("the spool is full")

    def _next_name(self) -> str:
        self._sequence += 1
        return _file_name(self._origin.epoch, self._sequence - 1)

    def _remember(self, windows: Sequence[Window], samples: Sequence[Sample]) -> None:
        name = self._next_name()
        data = pack(head_of(self._origin, self._sequence - 1), [RecordMaker().record(windows, samples)])
        self._in_memory[name] = data
        self._sizes[name] = len(data)
        self._bytes += len(data)
        log.warning("the disk takes no windows: kept in memory", intervals=len(self._in_memory))
        while len(self._in_memory) > _MEMORY_RECORDS:
            self._drop(next(iter(self._in_memory)), "the disk takes no more, and memory is bounded")

    def _seal(self) -> None:
        """Close the batch that grows. One that holds nothing (its first line failed) is none."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        if not writer.records:
            name = next(reversed(self._sizes))
            self._forget(name)
            self._delete(self._folder / name)

    def _drop_oldest(self, why: str) -> None:
        self._drop(next(name for name in self._sizes if name not in self._in_memory), why)

    def _drop(self, name: str, why: str) -> None:
        if self._is_growing(name):
            self._seal()
        self._forget(name)
        self._delete(self._folder / name)
        self.dropped_batches += 1
        log.warning("batch dropped", batch=name, why=why, dropped_batches=self.dropped_batches)

    def _is_growing(self, name: str) -> bool:
        return self._writer is not None and name == next(reversed(self._sizes))

    # --- the reader's side

    def oldest(self) -> str | None:
        """Return the name of the batch that has waited longest, or None. It grows no more from now on."""
        with self._guard:
            name = next(iter(self._sizes), None)
            if name is not None and self._is_growing(name):
                self._seal()
                name = next(iter(self._sizes), None)
            return name

    def read(self, name: str) -> bytes | None:
        """Return a batch as the wire wants it; None where it waits no more (dropped, or its file was damaged)."""
        segment = self._segment(name)
        return None if segment is None else compress(wire_batch(*segment))

    def _segment(self, name: str) -> tuple[Record, list[Record]] | None:
        with self._guard:
            if name not in self._sizes:
                return None
            if self._latest is not None and self._latest[0] == name and not self._is_growing(name):
                return head_of(self._origin, int(name.split(".")[-2])), [self._latest[1]]
            try:
                data = self._in_memory.get(name) or (self._folder / name).read_bytes()
            except OSError as error:
                self._drop(name, error.strerror or str(error))
                return None
        lines = list(unpack(data))
        if len(lines) > 1:
            return lines[0], lines[1:]
        with self._guard:
            # A kill before the first line was whole: nothing had been acknowledged.
            self._forget(name)
            self._delete(self._folder / name)
            return None

    def split(self, name: str) -> bool:
        """Replace a batch that is too long for the service by two; False where it holds one interval only.

        The halves get an epoch of their own, `<epoch>+<sequence>`; in place of the batch an empty one is left, so
        that the service misses nothing of the epoch. A kill in between leaves both, under the same names each time.
        """
        segment = self._segment(name)
        if segment is None:
            return True
        head, records = segment[0], list(whole(segment[1]))
        if len(records) < 2:
            return False
        epoch = f"{head['epoch']}+{head['sequence']}"
        middle = len(records) // 2
        halves = {
            _file_name(epoch, sequence): pack({**head, "epoch": epoch, "sequence": sequence}, half)
            for sequence, half in enumerate((_complete(records[:middle]), _complete(records[middle:])))
        }
        empty: Record = {"index": [], "count": None, "mean": None, "minimum": None, "maximum": None, "delta": None}
        state = {key: records[-1][key] for key in ("devices", "absences")}
        with self._guard:
            if name not in self._sizes:
                return True
            for new, data in {**halves, name: pack(head, [{**state, **empty}])}.items():
                self._replace(new, data)
            for new in reversed([*halves, name]):
                self._sizes.move_to_end(new, last=False)
        return True

    def _replace(self, name: str, data: bytes) -> None:
        if name in self._in_memory:
            self._in_memory[name] = data
        else:
            temporary = self._folder / (name + _TEMPORARY)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._folder / name)
            _sync_folder(self._folder)
        self._bytes += len(data) - self._sizes.get(name, 0)
        self._sizes[name] = len(data)

    def remove(self, name: str) -> None:
        """Delete a batch that the service has taken."""
        with self._guard:
            self._forget(name)
            self._delete(self._folder / name)

    def reject(self, name: str) -> None:
        """Set a batch aside that the service refuses for good; the latest hundred are kept to be looked at."""
        with self._guard:
            if name not in self._in_memory:
                try:
                    (self._folder / name).rename(self._rejected_folder / name)
                except OSError as error:
                    log.warning("batch could not be set aside", batch=name, why=str(error))
            self._forget(name)
            for old in sorted(self._rejected_folder.glob(f"*{_SUFFIX}"))[:-_REJECTED_KEPT]:
                self._delete(old)

    @staticmethod
    def _delete(path: Path) -> None:
        # A batch that stays on disk is pushed once more after the next start, and the service knows it already.
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("batch could not be deleted", batch=path.name, why=str(error))

    def _forget(self, name: str) -> None:
        self._bytes -= self._sizes.pop(name, 0)
        self._in_memory.pop(name, None)

    def close(self) -> None:
        """Let another agent have the folder."""
        with self._guard:
            self._seal()
        self._lock_file.close()


def _file_name(epoch: str, sequence: int) -> str:
    return f"{epoch}.{sequence:010d}{_SUFFIX}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete(records: Sequence[Record]) -> list[Record]:
    """Return records that stand alone: the first says all its series, the others only what is new."""
    firsts = [0, *(len(record["series"]) for record in records)]
    pairs = zip(records, firsts[:-1], strict=True)
    return [{**record, "series": record["series"][known:]} for record, known in pairs]
