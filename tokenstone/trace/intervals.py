"""Sets of time as sorted, disjoint intervals: two arrays, starts and ends, in microseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Disjoint intervals in order. Made by `union`."""

    starts: Floats
    ends: Floats

    @property
    def length(self) -> float:
        """Time that they cover."""
        return float((self.ends - self.starts).sum())

    def gaps(self) -> Intervals:
        """The time between the first start and the last end that is not covered."""
        return Intervals(self.ends[:-1], self.starts[1:])


def union(starts: Floats, ends: Floats) -> Intervals:
    """Merge intervals that overlap or touch.

    >>> union(np.array([0.0, 5.0, 1.0]), np.array([2.0, 6.0, 3.0]))
    Intervals(starts=array([0., 5.]), ends=array([3., 6.]))
    """
    if not len(starts):
        return Intervals(np.empty(0), np.empty(0))
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return Intervals(starts[first], reach[last])


def joined(one: Intervals, other: Intervals) -> Intervals:
    """Time that either covers."""
    return union(np.concatenate([one.starts, other.starts]), np.concatenate([one.ends, other.ends]))


def overlap(one: Intervals, other: Intervals) -> float:
    """Time that both cover."""
    return one.length + other.length - joined(one, other).length


def covered_until(intervals: Intervals, times: Floats) -> Floats:
    """For each of `times`, how much of what lies before it is covered.

    >>> covered_until(union(np.array([1.0, 5.0]), np.array([2.0, 9.0])), np.array([0.0, 1.5, 6.0, 20.0]))
    array([0. , 0.5, 2. , 5. ])
    """
    whole = np.concatenate([[0.0], np.cumsum(intervals.ends - intervals.starts)])
    begun = np.searchsorted(intervals.starts, times, side="right")
    beyond = np.concatenate([[-np.inf], intervals.ends])[begun] - times
    return np.asarray(whole[begun] - np.maximum(0.0, beyond))
