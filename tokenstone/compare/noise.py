"""How far apart two groups of runs of the very same thing lie by chance: the A/A noise floor.

From n repeated runs of one side, s is the standard deviation of the logarithms of its cost. Groups of n_a and n_b runs
drawn from that side differ in 95 of 100 cases by less than the factor

    exp(t · s · sqrt(1/n_a + 1/n_b))        t: Student's t at 97.5 % with n - 1 degrees of freedom

A difference below the floor is one that this cluster shows between itself and itself.

Worked example: 4 runs that cost 100, 102, 98 and 100: s = 0.0163, t = 3.18, so two groups of 4 differ by up to 3.7 %.

>>> round(noise_floor([100, 102, 98, 100], 4, 4), 4)
1.0374
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tokenstone.compare.ratio import INSUFFICIENT, LEAST_FOR_SIGNIFICANCE
from tokenstone.compare.side import Row


class NoiseFloor(Row):
    """Of one side."""

    side: str
    runs: int
    ratio: float | None
    """Factor of cost per token by which equal groups differ in 95 of 100 cases at most; 1.02 is 2 %."""
    reason: str = ""
    method: str = "exp(t s sqrt(1/n_a + 1/n_b)), s of the logarithms of repeated runs of this side, t at 97.5 %"


def noise_floor(values: Sequence[float], runs_a: int, runs_b: int) -> float:
    """The floor of groups of `runs_a` and `runs_b` runs, from repeated runs of one side (2 or more, above 0)."""
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415  a second, for those who compare

    spread = statistics.stdev([math.log(value) for value in values])
    t = float(stats.t.ppf(0.975, len(values) - 1))
    return math.exp(min(700.0, t * spread * math.sqrt(1 / runs_a + 1 / runs_b)))


def side_floor(side: str, values: Sequence[float], runs_a: int, runs_b: int) -> NoiseFloor:
    """The floor of a side, or why it has none."""
    if len(values) < LEAST_FOR_SIGNIFICANCE or min(values) <= 0:
        reason = f"{INSUFFICIENT}: {LEAST_FOR_SIGNIFICANCE} repeated runs are needed"
        return NoiseFloor(side=side, runs=len(values), ratio=None, reason=reason)
    return NoiseFloor(side=side, runs=len(values), ratio=noise_floor(values, max(1, runs_a), max(1, runs_b)))
