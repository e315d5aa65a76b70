"""Runs made by hand for tests of comparisons and their documents."""

from __future__ import annotations

from tokenstone.compare import RunFigures, make_side
from tokenstone.cost import make_bill, rental

LINES = {"ideal": 50.0, "exposed_communication": 30.0, "startup": 20.0}


def run(name="a-0", seconds=None, tokens=1_000_000, price=2.0, **changes) -> RunFigures:
    """A run of 100 device-seconds; `price` None is no price."""
    seconds = LINES if seconds is None else seconds
    bill = make_bill(seconds, tokens, "trained", None if price is None else rental(price))
    total = sum(seconds.values())
    values = {
        "run_id": name, "cluster": "lab-a", "spec_id": "s1", "kind": "training",
        "spec": {"seed": 0, "model": {"layers": 4}},
        "bill": bill, "environment": {"hardware": "h100-sxm"}, "validity": ["valid"],
        "figures": {
            "score": 100 * seconds.get("ideal", 0.0) / total, "tokens_per_second": tokens / total,
            "device_seconds_per_million_tokens": bill.device_seconds_per_million_tokens if bill else None,
            "usd_per_million_tokens": bill.usd_per_million_tokens if bill else None,
        },
    }  # fmt: skip
    return RunFigures(**(values | changes))


def runs(prefix, factors, **changes) -> list[RunFigures]:
    """One run a factor on all its device-seconds."""
    lines = changes.pop("lines", LINES)
    return [
        run(f"{prefix}-{i}", {name: value * factor for name, value in lines.items()}, **changes)
        for i, factor in enumerate(factors)
    ]


def side(prefix="a", factors=(1.0, 1.01, 0.99, 1.0), **changes):
    """A side of such runs."""
    return make_side(runs(prefix, factors, **changes), title=prefix.upper())
