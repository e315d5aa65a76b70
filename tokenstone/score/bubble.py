"""The bubble of a pipeline: the share of a schedule's time in which a rank has nothing to do.

With P pipeline ranks, M micro-batches and, per micro-batch and *stage*, F forward, B whole backward, W its weight part
(I = B - W the rest), a rank that was never idle would work for M · v · (F + B), v stages a rank. On top comes

    1F1B             (P - 1) (F + B)                arXiv 2006.09503
    Interleaved1F1B  (P - 1) (F + B)                of stages that are 1 / v as long: arXiv 2104.04473
    ZBVZeroBubble    (P - 1) max(F, I, 2 (I - W))   the order of arXiv 2401.10241
    DualPipeV        (P - 1) (F&B + B - 3 W)        F&B is the time of a pair: github.com/deepseek-ai/DualPipe

and ratio = bubble / (work + bubble). 1F1B and the interleaved one depend on no time: (P - 1) / (v M + P - 1). All count
from a common start to a common end, as a step does whose gradients are reduced before the optimizer, and the rank that
waits most. ZBV's authors count each rank from its own first action to its own last; then nothing is left of it where
F = I = W. A replay of the orders (tests/workloads/parallel/test_bubble.py) gives ZBV's exactly where F <= I, and
DualPipeV's where F = I; for parts that are up to a fifth longer or shorter the forms are within a fifth of it.

Worked example: 1F1B on 4 ranks with 8 micro-batches has 3 / 11 = 27.3 %; two stages a rank make it 3 / 19 = 15.8 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenstone.run import Schedule


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one micro-batch through one stage."""

    forward: float = 1.0
    backward_input: float = 1.0
    backward_weight: float = 1.0

    @property
    def backward(self) -> float:
        """The whole of it."""
        return self.backward_input + self.backward_weight


def expected_bubble_ratio(
    schedule: Schedule, ranks: int, micro_batches: int, times: StageTimes | None = None, *, overlap: bool = False
) -> float:
    """The formula above. `times` default to equal ones; `overlap`: a pair takes the longer of both, else their sum.

    >>> round(expected_bubble_ratio("1F1B", 4, 8), 3)
    0.273
    >>> round(expected_bubble_ratio("Interleaved1F1B", 4, 8), 3)
    0.158
    """
    t = times or StageTimes()
    stages = 1 if schedule == "1F1B" else 2
    work = micro_batches * stages * (t.forward + t.backward)
    if schedule == "DualPipeV" and overlap:  # the last rank's pairs, each of which takes the longer of both
        work -= (2 * (micro_batches - ranks) - 1) * min(t.forward, t.backward)
    if schedule in {"1F1B", "Interleaved1F1B"}:
        bubble = t.forward + t.backward
    elif schedule == "ZBVZeroBubble":
        bubble = max(t.forward, t.backward_input, 2 * (t.backward_input - t.backward_weight))
    else:
        pair = max(t.forward, t.backward) if overlap else t.forward + t.backward
        bubble = pair + t.backward - 3 * t.backward_weight
    bubble = max(0.0, (ranks - 1) * bubble)
    return bubble / (work + bubble) if work + bubble > 0 else 0.0
