"""Wakes an event loop at instants, to the tenth of a millisecond.

asyncio's own timers are rounded up to whole milliseconds, which would be most of the lag that a load generator may
have. A thread that sleeps on the system's clock is not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

TICK_SECONDS = 0.02


class Agenda:
    """Calls `start(i)` in the running loop at `instants[i]` (monotonic, ascending), and meanwhile measures the loop.

    `loop_lags`: how late the loop answered a knock at its door, every `TICK_SECONDS`.
    """

    def __init__(self, instants: Sequence[float], start: Callable[[int], None]) -> None:
        self._instants, self._start = instants, start
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.loop_lags: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        tick, index = time.monotonic(), 0
        while not self._stop.is_set():
            due = self._instants[index] if index < len(self._instants) else float("inf")
            pause = min(due, tick) - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            now = time.monotonic()
            while index < len(self._instants) and self._instants[index] <= now:
                self._call(self._start, index)
                index += 1
            if tick <= now:
                self._call(self._knock, now)
                tick = now + TICK_SECONDS

    def _call(self, function: Callable[..., None], argument: float) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _knock(self, knocked: float) -> None:
        self.loop_lags.append(time.monotonic() - knocked)
