"""The score: 100 x ideal device-seconds / allocated device-seconds.

Of every dollar, how many cents bought work at the hardware's limit. Derivation: the cost of a run is price x A,
the cost at the hardware's limit price x ideal, so the price cancels; the score compares clusters that pay
differently, and the bill adds what they pay.

Worked example: 8 devices held for 100 s, A = 800. The tokens trained need 3.2e17 FLOPs of a 1e15 peak: ideal =
320 device-seconds. Score = 100 · 320 / 800 = 40.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenstone.ledger import Ledger


def efficiency(ledgers: Iterable[Ledger]) -> float | None:
    """Score of one ledger, or of several together (sum over sum). None where any has no ideal.

    >>> from tokenstone.ledger import Ledger
    >>> run = Ledger(kind="training", allocated_seconds=800, seconds={"ideal": 320, "idle": 480}, residual_seconds=0)
    >>> efficiency([run])
    40.0
    """
    ideal = allocated = 0.0
    for ledger in ledgers:
        if ledger.ideal_seconds is None or not ledger.balanced:
            return None
        ideal += ledger.ideal_seconds
        allocated += ledger.allocated_seconds
    return 100.0 * ideal / allocated if allocated > 0 else None
