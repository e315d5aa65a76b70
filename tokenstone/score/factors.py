"""The multiplicative reading of the ledger, after the POP project's efficiency tree.

Take the categories away from A in groups, one after the other; each factor is what is left over what was there:

    availability   start-up, recovery, idle, waiting for requests, checkpoints and input taken away
    balance        waiting for slower ranks and for other stages
    communication  communication that nothing hides
    host           inside a step or an iteration, nothing runs
    useful_work    work done twice, or for requests that missed their objective
    kernel         ideal over the rest: how near the kernels are to the hardware's limit

Their product is ideal / A, the score over 100.

Worked example: A = 100, start-up 20, communication 10, ideal 35, kernels 35. availability 0.8, communication
70/80 = 0.875, kernel 35/70 = 0.5, the others 1; the product is 0.35.
"""

from __future__ import annotations

from tokenstone.ledger import Ledger

GROUPS: dict[str, tuple[str, ...]] = {
    "availability": ("startup", "recovery", "idle", "queue_idle", "checkpoint", "input_stall"),
    "balance": ("load_imbalance", "pipeline_bubble"),
    "communication": ("exposed_communication",),
    "host": ("host_overhead",),
    "useful_work": ("recompute", "preemption", "slo_miss"),
    "kernel": ("kernel_inefficiency",),
}


def factors(ledger: Ledger) -> dict[str, float] | None:
    """Return each factor as a ratio 0..1; None where the ledger has no ideal.

    >>> from tokenstone.ledger import Ledger
    >>> seconds = {"ideal": 35, "kernel_inefficiency": 35, "exposed_communication": 10, "startup": 20}
    >>> factors(Ledger(kind="training", allocated_seconds=100, seconds=seconds, residual_seconds=0))["communication"]
    0.875
    """
    if ledger.ideal_seconds is None or not ledger.balanced:
        return None
    result: dict[str, float] = {}
    left = sum(ledger.seconds.values())
    for name, categories in GROUPS.items():
        kept = left - sum(ledger.seconds.get(category, 0.0) for category in categories)
        result[name] = min(1.0, max(0.0, kept / left)) if left > 0 else 0.0
        left = kept
    return result
