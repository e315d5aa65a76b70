"""Counters that wrap: a register of 32 or 64 bits that starts again at zero when it is full."""

from __future__ import annotations


class Unwrapped:
    """Turns a register's values into a total that goes on over wraps. A reset is passed on as one.

    A value below the one before is a wrap where the register was in its upper half and is in its lower one now;
    else it was reset. Two wraps between two readings cannot be told: whoever reads it knows how fast it can be.

    >>> total = Unwrapped(bits=32)
    >>> total(2**32 - 10), total(5), total(7)
    (4294967286, 4294967301, 4294967303)
    >>> total(1)  # reset
    1
    """

    __slots__ = ("_carried", "_last", "_size")

    def __init__(self, bits: int) -> None:
        self._size = 1 << bits
        self._last = self._carried = 0

    def __call__(self, raw: int) -> int:
        """Return the total after reading `raw`."""
        if raw < self._last:
            wrapped = raw < self._size // 2 <= self._last
            self._carried = self._carried + self._size if wrapped else 0
        self._last = raw
        return self._carried + raw
