"""The bottleneck: the category whose removal lowers the bill most.

Every category but `ideal` could in principle go. Taking one away saves its device-seconds, so the largest is the
bottleneck, whatever the price.

Worked example: of $1.90 a million tokens, $0.41 is exposed communication, $0.30 start-up and the rest ideal: the
bottleneck is exposed communication, which costs $0.41 of the $1.90.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from tokenstone.cost import Bill

TITLES: dict[str, str] = {
    "ideal": "work at the hardware's limit",
    "compute": "computation, not split",
    "recompute": "recomputation",
    "kernel_inefficiency": "kernel inefficiency",
    "exposed_communication": "exposed communication",
    "pipeline_bubble": "pipeline bubbles",
    "load_imbalance": "load imbalance",
    "input_stall": "input stalls",
    "checkpoint": "checkpoints",
    "host_overhead": "host overhead",
    "startup": "start-up",
    "recovery": "recovery",
    "idle": "idle time",
    "queue_idle": "waiting for requests",
    "preemption": "preemption",
    "slo_miss": "tokens that missed the objective",
}
"""What the categories are called in a sentence."""

_PLURAL = frozenset({"pipeline_bubble", "input_stall", "checkpoint", "slo_miss"})


class Bottleneck(BaseModel):
    """The dearest category that is not ideal work."""

    model_config = ConfigDict(frozen=True)

    category: str
    title: str
    device_seconds_per_million_tokens: float
    usd_per_million_tokens: float | None
    share_ratio: float
    sentence: str


def bottleneck(bill: Bill) -> Bottleneck | None:
    """Return the category to remove first; None where all of the bill is ideal or the limit is unknown."""
    candidates = [line for line in bill.lines if line.category not in {"ideal", "compute"} and line.device_seconds > 0]
    if not candidates:
        return None
    worst = max(candidates, key=lambda line: line.device_seconds)
    title = TITLES[worst.category]
    verb = "cost" if worst.category in _PLURAL else "costs"
    if worst.usd_per_million_tokens is not None and bill.usd_per_million_tokens is not None:
        amounts = f"{money(worst.usd_per_million_tokens)} of your {money(bill.usd_per_million_tokens)}"
    else:
        amounts = (
            f"{seconds(worst.device_seconds_per_million_tokens)} of your "
            f"{seconds(bill.device_seconds_per_million_tokens)} device-seconds"
        )
    return Bottleneck(
        category=worst.category,
        title=title,
        device_seconds_per_million_tokens=worst.device_seconds_per_million_tokens,
        usd_per_million_tokens=worst.usd_per_million_tokens,
        share_ratio=worst.share_ratio,
        sentence=f"{title} {verb} {amounts} per million tokens",
    )


def seconds(value: float) -> str:
    """Seconds with three significant figures, and whole ones from a hundred up.

    >>> seconds(4333.3), seconds(41.26), seconds(0.0512)
    ('4,333', '41.3', '0.0512')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def money(usd: float) -> str:
    """Dollars with as many digits as they need: cents above ten cents, three significant figures below.

    >>> money(1234.5), money(0.41), money(0.00123), money(5.63e-5), money(0.0)
    ('$1,234.50', '$0.41', '$0.00123', '$0.0000563', '$0.00')
    """
    if abs(usd) >= 0.1 or usd == 0:
        return f"${usd:,.2f}"
    return f"${usd:.{2 - math.floor(math.log10(abs(usd)))}f}"
