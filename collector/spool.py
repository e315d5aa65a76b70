"""Batches on disk until the service has taken them. Bounded: when it is full, the oldest go, and are counted.

One file per batch, `<epoch>.<sequence>.json.gz`, written whole or not at all (temporary file, fsync, rename), so
that a kill at any moment leaves only batches and temporary files. Epochs begin with the time of their start, so
that names sort in order of time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import IO

import structlog

from tokenstone.errors import Conflict, NotWritable

_SUFFIX = ".json.gz"
_TEMPORARY = ".tmp"
_REJECTED_KEPT = 100

log = structlog.get_logger()


class Spool:
    """A folder of waiting batches, held by one agent at a time. Safe for one writer and one reader thread.

    Raises NotWritable where the folder cannot be written, and Conflict where another agent holds it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._rejected_folder = folder, folder / "rejected"
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        try:
            self._rejected_folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = self._hold()
            for leftover in folder.glob(f"*{_TEMPORARY}"):
                leftover.unlink()
            names = sorted(path.name for path in folder.glob(f"*{_SUFFIX}"))
            self._sizes = OrderedDict((name, (folder / name).stat().st_size) for name in names)
        except OSError as error:
            raise NotWritable(
                f"the spool cannot be written: {error.strerror}", where=str(folder), hint="choose another spool_dir"
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

    def put(self, epoch: str, sequence: int, data: bytes) -> bool:
        """Keep a batch; False where it had to be dropped (larger than the spool, or the disk does not take it)."""
        name = f"{epoch}.{sequence:010d}{_SUFFIX}"
        with self._guard:
            if len(data) > self._max_bytes:
                self._count_dropped(name, "larger than the whole spool")
                return False
            while self._sizes and self._bytes + len(data) > self._max_bytes:
                self._drop_oldest("the spool is full")
            try:
                self._write(name, data)
            except OSError as error:
                self._count_dropped(name, error.strerror or str(error))
                return False
            self._sizes[name] = len(data)
            self._bytes += len(data)
        return True

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._folder / (name + _TEMPORARY)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)

    def _drop_oldest(self, why: str) -> None:
        name = next(iter(self._sizes))
        self._forget(name)
        self._delete(self._folder / name)
        self._count_dropped(name, why)

    def _count_dropped(self, name: str, why: str) -> None:
        self.dropped_batches += 1
        log.warning("batch dropped", batch=name, why=why, dropped_batches=self.dropped_batches)

    def oldest(self) -> str | None:
        """Return the name of the batch that has waited longest, or None."""
        with self._guard:
            return next(iter(self._sizes), None)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a batch; None where it waits no more (dropped, or its file was taken away)."""
        with self._guard:
            if name not in self._sizes:
                return None
            try:
                return (self._folder / name).read_bytes()
            except OSError as error:
                self._forget(name)
                self._count_dropped(name, error.strerror or str(error))
                return None

    def remove(self, name: str) -> None:
        """Delete a batch that the service has taken."""
        with self._guard:
            self._forget(name)
            self._delete(self._folder / name)

    def reject(self, name: str) -> None:
        """Set a batch aside that the service refuses for good; the latest hundred are kept to be looked at."""
        with self._guard:
            self._forget(name)
            try:
                (self._folder / name).rename(self._rejected_folder / name)
            except OSError as error:
                log.warning("batch could not be set aside", batch=name, why=str(error))
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

    def close(self) -> None:
        """Let another agent have the folder."""
        self._lock_file.close()
