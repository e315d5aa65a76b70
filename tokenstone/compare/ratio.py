"""Run against run: how much faster, and whether that could be chance.

The unit of replication is the run. A run's value (tokens/s, dollars per million tokens) is one number, however many
steps or requests it is the mean of: those share the run's luck, and an interval that pools 200 requests from each of
5 runs holds the truth in 43 of 100 cases rather than in 95.

Ratio of two samples. Rates differ by factors, so logarithms differ by sums: with x = ln a and y = ln b,

    d  = mean(y) - mean(x)                     exp(d) is the ratio of the geometric means, b / a
    se = sqrt(var(x)/n_a + var(y)/n_b)         variances with n - 1
    df = se^4 / ((var(x)/n_a)^2/(n_a - 1) + (var(y)/n_b)^2/(n_b - 1))

d / se follows Student's t with df degrees of freedom if there is no difference (Welch 1947, Biometrika 34, 28-35;
Satterthwaite 1946 for df), whichever side varies more. The interval is exp(d - t·se) to exp(d + t·se); it is the
same question asked either way round: swap a and b and it inverts.

Worked example: a = 100, 110, 90, 100 and b = 130, 120, 125, 140 tokens/s. Geometric means 99.75 and 128.54, so
d = ln 1.2886 = 0.2536; se = 0.0525; df = 5.73; t = 2.476 at 95 %. The ratio is 1.29, from 1.13 to 1.47; p = 0.0033.

>>> found = compare_runs([100, 110, 90, 100], [130, 120, 125, 140])
>>> print(f"{found.ratio:.4f} from {found.low:.2f} to {found.high:.2f}, p = {found.p_value:.4f}")
1.2886 from 1.13 to 1.47, p = 0.0033

Several metrics at once. Of twenty comparisons without any difference, one is "significant" at 5 % by chance. Holm
(1979, Scandinavian Journal of Statistics 6, 65-70) keeps the chance of even one false finding below 5 %: the smallest
of m p-values is multiplied by m, the next by m - 1, and so on, and none may become smaller than the one before it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tokenstone.errors import InvalidValue

LEAST_FOR_INTERVAL = 2
"""Runs a side below which nothing is known about how much runs vary."""
LEAST_FOR_SIGNIFICANCE = 4
"""Runs a side below which no difference is called real: even a rank test could not reach p < 0.05."""
INSUFFICIENT = "insufficient data"


class RatioEstimate(BaseModel):
    """How much larger the runs of b are than those of a."""

    model_config = ConfigDict(frozen=True)

    ratio: float
    """Geometric mean of b over that of a."""
    low: float | None
    """Ends of the interval at `confidence`; None below 2 runs a side."""
    high: float | None
    confidence: float
    p_value: float | None
    """Chance of a ratio this far from 1 if there is no difference; None below 4 runs a side."""
    runs_a: int
    runs_b: int
    reason: str = ""
    """Why the difference cannot be judged: "insufficient data" below 4 runs a side, even where there is an interval."""


def compare_runs(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> RatioEstimate:
    """Compare the runs of b with those of a by Welch's t on logarithms; one value per run.

    Without any variation on either side the interval has no width. Raises InvalidValue for a side without runs, a
    value that is not above 0 (it has no logarithm) and a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise InvalidValue(f"{confidence:g} is no confidence", where="confidence", hint="give one such as 0.95")
    x, y = _logarithms(a, "a"), _logarithms(b, "b")
    difference = statistics.fmean(y) - statistics.fmean(x)
    low = high = p_value = None
    if min(len(x), len(y)) >= LEAST_FOR_INTERVAL:
        margin, p_value = _welch(x, y, difference, confidence)
        low, high = _exp(difference - margin), _exp(difference + margin)
    enough = min(len(x), len(y)) >= LEAST_FOR_SIGNIFICANCE
    return RatioEstimate(
        ratio=_exp(difference),
        low=low,
        high=high,
        confidence=confidence,
        p_value=p_value if enough else None,
        runs_a=len(x),
        runs_b=len(y),
        reason="" if enough else INSUFFICIENT,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, in the order given; raises InvalidValue for one outside 0 to 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise InvalidValue(f"{p:g} is no probability", where="p_values", hint="give values from 0 to 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _logarithms(values: Sequence[float], side: str) -> list[float]:
    if not values:
        raise InvalidValue("no runs to compare", where=side, hint="give at least one run a side")
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise InvalidValue(f"{value:g} has no ratio to anything", where=side, hint="give values above 0")
    return [math.log(value) for value in values]


def _welch(x: list[float], y: list[float], difference: float, confidence: float) -> tuple[float, float]:
    """Half the width of the interval around `difference`, and the two-sided p-value."""
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415  a second, for those who compare

    of_x, of_y = statistics.variance(x) / len(x), statistics.variance(y) / len(y)
    squared = of_x + of_y
    if squared == 0.0:
        return 0.0, 1.0 if difference == 0.0 else 0.0
    freedom = squared**2 / (of_x**2 / (len(x) - 1) + of_y**2 / (len(y) - 1))
    error = math.sqrt(squared)
    margin = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return margin, 2 * float(stats.t.sf(abs(difference) / error, freedom))


def _exp(x: float) -> float:
    """exp, infinite where a float cannot hold it: few runs that differ by orders of magnitude bound nothing."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
