"""The agent's clocks, gathered so that tests can replace them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` measures durations, in seconds; `unix` only labels, in seconds since 1970."""

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time
