"""How far the luck of runs spreads a figure: the geometric mean over runs, with Student's interval on logarithms.

Figures of runs (score, dollars and device-seconds per million tokens) differ by factors, so their logarithms differ by
sums. With x = ln of each run's figure,

    mean(x) -+ t · s / sqrt(n),   s with n - 1, t of n - 1 degrees of freedom

whose exponentials hold the true geometric mean in 95 of 100 cases. It covers the luck of runs, not another day's.

Worked example: 100, 110, 90, 100. Geometric mean 99.75; s = 0.0820, t = 3.182, so the interval is 87.6 to 113.6.

>>> mean, low, high = geometric_interval([100, 110, 90, 100])
>>> round(mean, 2), round(low, 1), round(high, 1)
(99.75, 87.6, 113.6)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def geometric_interval(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float | None, float | None, float | None]:
    """Return geometric mean, low and high end.

    The ends are None below 2 runs, or where so few runs differ so much that they bound nothing; all are None without
    runs, or with one that is not above 0 and so has no logarithm.
    """
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        return None, None, None
    logarithms = [math.log(value) for value in values]
    mean = statistics.fmean(logarithms)
    if len(values) < 2:
        return math.exp(mean), None, None
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415  a second, for those who compare

    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    margin = quantile * statistics.stdev(logarithms) / math.sqrt(len(values))
    try:
        return math.exp(mean), math.exp(mean - margin), math.exp(mean + margin)
    except OverflowError:
        return math.exp(mean), None, None
