"""The ledger: how every device-second of a run was spent. It balances exactly.

For N devices held for T seconds, A = N · T device-seconds. At each instant a device is in exactly one category;
of those that apply, the first of the list wins (compute hides the communication behind it).

`compute` is then split: `ideal` is what the work takes at the hardware's limit, `recompute` what was done twice on
purpose, `kernel_inefficiency` the rest. The residual, A - sum, is zero but for rounding; a run whose facts leave
more is invalid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenstone.wire import Activity, InferenceFacts, TrainingFacts

PRIORITY: tuple[Activity, ...] = (
    "compute", "exposed_communication", "pipeline_bubble", "load_imbalance", "input_stall", "checkpoint",
    "host_overhead", "startup", "recovery", "idle",
)  # fmt: skip
"""Activities, the one that wins first."""

TRAINING_CATEGORIES: tuple[str, ...] = ("ideal", "recompute", "kernel_inefficiency", *PRIORITY[1:])
INFERENCE_CATEGORIES: tuple[str, ...] = (
    "ideal", "kernel_inefficiency", "exposed_communication", "host_overhead", "queue_idle", "preemption",
    "slo_miss", "startup",
)  # fmt: skip

TOLERANCE = 1e-6
"""Largest residual, as a share of A, that is rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One activity from `start` to `end`, seconds."""

    start: float
    end: float
    activity: Activity
