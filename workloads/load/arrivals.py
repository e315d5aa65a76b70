"""When requests are due, and how long they are: everything random about a load, drawn from the spec's seed."""

from __future__ import annotations

import numpy as np

from tokenstone.run import Lengths, Traffic


def arrival_seconds(traffic: Traffic, count: int, *, seed: int) -> list[float]:
    """Instants of an open loop from its beginning, the first at 0.

    Gaps are gamma distributed with the mean 1 / rate; a shape of 1 is the exponential distribution, that is Poisson
    arrivals, and a smaller one comes in bursts (coefficient of variation 1 / sqrt(shape)).
    """
    assert traffic.rate is not None
    shape = 1.0 if traffic.arrival == "poisson" else traffic.burstiness
    gaps = np.random.default_rng([seed, 1]).gamma(shape, 1.0 / (traffic.rate * shape), size=count)
    gaps[0] = 0.0
    return [float(instant) for instant in np.cumsum(gaps)]


def draw_lengths(lengths: Lengths, count: int, *, seed: int) -> list[tuple[int, int]]:
    """(input, output) tokens of each request: log-normal around the medians, cut off at 1 and at the limits."""
    random = np.random.default_rng([seed, 2])
    columns = []
    for median, sigma, limit in (
        (lengths.input_tokens, lengths.input_sigma, lengths.input_limit),
        (lengths.output_tokens, lengths.output_sigma, lengths.output_limit),
    ):
        drawn = np.rint(median * np.exp(sigma * random.standard_normal(count)))
        columns.append(np.clip(drawn, 1, limit).astype(int).tolist())
    return list(zip(*columns, strict=True))
