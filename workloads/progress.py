"""What a running workload says about itself, and how the process entry says it: one JSON object a line."""

from __future__ import annotations

import json
import time
from typing import IO, Protocol


class Progress(Protocol):
    """Listens to a workload."""

    def phase(self, name: str) -> None:
        """A part of the work with this name begins."""

    def progress(self, done: int, total: int, **figures: float) -> None:
        """`done` of `total` steps or requests; `figures` such as tokens_per_second and loss."""

    def warning(self, text: str) -> None:
        """Something went wrong, and the work goes on."""


class Silent:
    """A listener who does nothing."""

    def phase(self, name: str) -> None:
        """Ignore it."""

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Ignore it."""

    def warning(self, text: str) -> None:
        """Ignore it."""


class JsonLines:
    """Writes events to `stream`: {"event": "phase" | "progress" | "warning" | "done" | "error", ...}."""

    def __init__(self, stream: IO[str], *, shortest_interval_seconds: float = 0.1) -> None:
        self._stream = stream
        self._interval = shortest_interval_seconds
        self._last = float("-inf")

    def phase(self, name: str) -> None:
        """Say that a part of the work begins."""
        self.event("phase", name=name)

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Say how far the work is; no more often than the interval, but always at its end."""
        now = time.monotonic()
        if done == total or now - self._last >= self._interval:
            self._last = now
            self.event("progress", done=done, total=total, **{name: round(v, 4) for name, v in figures.items()})

    def warning(self, text: str) -> None:
        """Say that something went wrong."""
        self.event("warning", what=text)

    def event(self, kind: str, **fields: object) -> None:
        """Write one line."""
        # In one piece: ranks share a stream, and torchrun starts them unbuffered, where print writes the end apart.
        self._stream.write(json.dumps({"event": kind, **fields}) + "\n")
        self._stream.flush()
