"""Which batches of one agent's start have arrived: all up to the highest, less the missing ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenstone.errors import Conflict

Range = tuple[int, int]
MOST_RANGES = 10_000
"""Gaps that are kept in mind for one start of an agent. A sound agent has a few."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Everything up to `highest` has arrived but for the `missing` ranges (first, last), which are in order."""

    highest: int = -1
    missing: tuple[Range, ...] = ()

    def has(self, sequence: int) -> bool:
        """Say whether that batch has arrived."""
        return sequence <= self.highest and not any(first <= sequence <= last for first, last in self.missing)

    def add(self, sequence: int) -> Arrivals:
        """Return the arrivals with one more, which had not arrived; raises Conflict at too many gaps.

        >>> Arrivals().add(0).add(4).add(2)
        Arrivals(highest=4, missing=((1, 1), (3, 3)))
        """
        if sequence > self.highest:
            gap: Sequence[Range] = [(self.highest + 1, sequence - 1)] if sequence > self.highest + 1 else []
            added = Arrivals(sequence, (*self.missing, *gap))
        else:
            added = Arrivals(
                self.highest, tuple(part for range_ in self.missing for part in _without(range_, sequence))
            )
        if len(added.missing) > MOST_RANGES:
            raise Conflict(
                f"more than {MOST_RANGES} gaps between the batches of one start of the agent",
                where="sequence",
                hint="restart the agent: it begins a new epoch",
            )
        return added


def _without(range_: Range, sequence: int) -> list[Range]:
    first, last = range_
    if not first <= sequence <= last:
        return [range_]
    return [part for part in ((first, sequence - 1), (sequence + 1, last)) if part[0] <= part[1]]
