"""What quantisation did to a model's numbers: the largest magnitude, and the share that became zero."""

from __future__ import annotations

import threading
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workloads.training.precision.blocks import Quantized, count_lost, largest_magnitude

Operand = Literal["activation", "weight", "gradient"]


class Figures(NamedTuple):
    """Of all numbers of one kind since the last call of `take`."""

    amax: float
    """Largest magnitude before quantisation."""
    underflow_ratio: float | None
    """Share of the values that were not zero and became zero; None if all were zero."""


class Statistics:
    """Counts on the device while `enabled`; costs two passes over each operand then, and nothing otherwise.

    Schedules that run forward and backward in two threads may share one.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._lock = threading.Lock()
        self._sums: dict[Operand, tuple[Tensor, Tensor]] = {}  # amax, (present, lost)

    def count(self, operand: Operand, x: Tensor, quantized: Quantized) -> None:
        """Count `x`, which became `quantized`."""
        if not self.enabled or x.numel() == 0:
            return
        present, lost = count_lost(x, quantized)
        amax, counts = largest_magnitude(quantized), torch.stack((present, lost))
        with self._lock:
            if operand in self._sums:
                amax_before, counts_before = self._sums[operand]
                amax, counts = torch.maximum(amax, amax_before), counts + counts_before
            self._sums[operand] = amax, counts

    def take(self) -> dict[Operand, Figures]:
        """Return the figures of each kind seen and begin again. The only place that waits for the device."""
        with self._lock:
            sums, self._sums = self._sums, {}
        figures: dict[Operand, Figures] = {}
        for operand, (amax, counts) in sums.items():
            present, lost = counts.tolist()
            figures[operand] = Figures(float(amax), lost / present if present else None)
        return figures
