"""Repeat an operation for a given time and keep what each repetition took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from workloads.device import Device


@dataclass(frozen=True, slots=True)
class Rate:
    """Rates of repetitions, per second: of operations or bytes."""

    best: float
    median: float
    repetitions: int

    @property
    def spread_ratio(self) -> float:
        """(best - median) / best: how steady the machine was."""
        return (self.best - self.median) / self.best


def measure(operation: Callable[[], object], amount: float, device: Device, *, seconds: float, least: int = 5) -> Rate:
    """Repeat `operation`, which does `amount` of work, for `seconds` and at least `least` times after a warm-up."""
    operation()
    device.synchronize()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        begin = time.perf_counter()
        operation()
        device.synchronize()
        taken.append(time.perf_counter() - begin)
    return Rate(amount / min(taken), amount / statistics.median(taken), len(taken))
