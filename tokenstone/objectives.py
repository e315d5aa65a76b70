"""Latency objectives: written by hand, or by the names of MLPerf Inference's server scenarios.

    ttft=2s,tpot=80ms          mlperf-r1

MLPerf holds the 99th percentile of a run with Poisson arrivals against its limits. Here each request is held against
them, and a run meets the objective where 99 % of its requests do, which is at least as strict.
"""

from __future__ import annotations

import re

from tokenstone.errors import InvalidValue, UnknownName
from tokenstone.run import Objective

OBJECTIVES: dict[str, Objective] = {
    "mlperf-r1": Objective(ttft_seconds=2.0, tpot_seconds=0.080),
    "mlperf-r1-interactive": Objective(ttft_seconds=1.5, tpot_seconds=0.015),
    "mlperf-llama2-70b": Objective(ttft_seconds=2.0, tpot_seconds=0.200),
    "mlperf-llama2-70b-interactive": Objective(ttft_seconds=0.450, tpot_seconds=0.040),
}
"""Limits of MLPerf Inference (DeepSeek-R1 and Llama 2 70B, server and interactive)."""

ATTAINMENT = 0.99
"""Share of requests that has to meet the objective."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_TERM = re.compile(r"(ttft|tpot|e2e)=([0-9]+(?:\.[0-9]+)?)(us|ms|s)")
_HINT = "like ttft=2s,tpot=80ms (ttft, tpot and e2e; us, ms or s)"


def parse_objective(text: str) -> Objective:
    """Read an objective. Raises InvalidValue or UnknownName.

    >>> parse_objective("ttft=2s,tpot=80ms").tpot_seconds
    0.08
    >>> parse_objective("mlperf-r1") == parse_objective("ttft=2s,tpot=80ms")
    True
    """
    if "=" not in text:
        try:
            return OBJECTIVES[text.strip().lower()]
        except KeyError:
            raise UnknownName(
                "objective", text, OBJECTIVES, where="--slo", hint=f"known: {', '.join(OBJECTIVES)}; or {_HINT}"
            ) from None
    limits: dict[str, float] = {}
    for term in text.replace(" ", "").lower().split(","):
        found = _TERM.fullmatch(term)
        if found is None or float(found[2]) <= 0:
            raise InvalidValue(f"{term!r} is no limit", where="--slo", hint=_HINT)
        name = f"{found[1]}_seconds"
        if name in limits:
            raise InvalidValue(f"{found[1]} has two limits", where="--slo", hint=_HINT)
        limits[name] = float(found[2]) * _UNITS[found[3]]
    return Objective(**limits)


def describe(objective: Objective) -> str:
    """The objective in words."""
    limits = {"TTFT": objective.ttft_seconds, "TPOT": objective.tpot_seconds, "E2E": objective.e2e_seconds}
    return ", ".join(f"{name} ≤ {limit:g} s" for name, limit in limits.items() if limit is not None)
