"""Batches for training: a pure function of corpus, seed and step, so that a run can resume at any step.

Shape suffixes: N tokens of the corpus, B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workloads.device import Device
from workloads.text import random_windows

_STEPS_PER_SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class Batches:
    """Draws `batch_sequences` random stretches of the corpus per step."""

    tokens_N: Tensor
    batch_sequences: int
    sequence_length: int
    seed: int

    def at(self, step: int, device: Device) -> tuple[Tensor, Tensor]:
        """Return (inputs_BT, targets_BT) of `step`; the targets are the inputs moved on by one token."""
        windows = random_windows(
            self.tokens_N, self.batch_sequences, self.sequence_length + 1, seed=self.seed * _STEPS_PER_SEED + step
        )
        windows = windows.to(device.torch)
        return windows[:, :-1], windows[:, 1:]
