"""The agent's clocks, gathered so that tests can replace them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def _asleep() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` measures durations, in seconds; `unix` only labels, in seconds since 1970.

    `asleep` is how long the machine has been suspended since boot, in seconds: `monotonic` stands still meanwhile.
    """

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time
    asleep: Callable[[], float] = _asleep
