"""Files of /proc and /sys, kept open and read again from their start: a tenth of the cost of opening each time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CHUNK = 65_536
_NUMBER = 64
# The kernel gives a list (/proc/net/dev) about a page at a time; what is shorter than this is the whole.
_SURELY_WHOLE = 2_048


class Files:
    """The files below `root`, the folder that stands for `/`. Not safe for two threads at a time."""

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/".replace("//", "/")
        self._open: dict[str, tuple[int, bool]] = {}

    def read(self, path: str) -> bytes:
        """Return what the file `path` (relative) holds now; raises OSError, also where it has vanished meanwhile."""
        kept = self._open.get(path)
        if kept is not None:
            descriptor, on_disk = kept
            try:
                # A real file may have been replaced by another of its name; the kernel's own never are.
                if not on_disk or os.fstat(descriptor).st_nlink:
                    data = os.pread(descriptor, _CHUNK, 0)
                    return data if len(data) < _SURELY_WHOLE else _rest(descriptor, data)
            except OSError:
                pass  # its device went away, and may be there again under the same name
            self._forget(path)
        try:
            descriptor = os.open(self._root + path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[path] = (descriptor, os.fstat(descriptor).st_blocks > 0)
            return _rest(descriptor, b"")
        except OSError as error:
            self._forget(path)
            raise OSError(error.errno, error.strerror, path) from None

    def text(self, path: str) -> str:
        """As `read`, as text. Bytes that are not UTF-8 are replaced: a device may call itself anything."""
        return self.read(path).decode("utf-8", "replace")

    def number(self, path: str) -> int:
        """As `read`, as a whole number; raises OSError, or ValueError where the file holds none."""
        kept = self._open.get(path)
        if kept is not None and not kept[1]:  # the way of hundreds of counters at each tick
            try:
                return int(os.pread(kept[0], _NUMBER, 0))
            except OSError:
                pass
        return int(self.read(path))

    def _forget(self, path: str) -> None:
        kept = self._open.pop(path, None)
        if kept is not None:
            with suppress(OSError):
                os.close(kept[0])

    def close(self) -> None:
        """Close all of them; what is read again is opened anew."""
        for path in list(self._open):
            self._forget(path)


def _rest(descriptor: int, begin: bytes) -> bytes:
    """Return `begin` and what follows it in the file."""
    parts, length = [begin], len(begin)
    while data := os.pread(descriptor, _CHUNK, length):
        parts.append(data)
        length += len(data)
    return b"".join(parts)
