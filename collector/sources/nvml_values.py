"""Numbers as NVIDIA's driver writes them, and its marks for `no value`, which must never pass for a measurement."""

from __future__ import annotations

import math

Value = tuple[str, float, tuple[tuple[str, str], ...]]
"""Metric, value in the registry's unit, and labels."""

# All bits set, and the marks that the tools built on the library use and that have been seen to come through it.
_BLANK_32 = {0xFFFFFFFF, 0x7FFFFFF0, 0x7FFFFFF1, 0x7FFFFFF2, 0x7FFFFFF3}
_BLANK_64 = {0xFFFFFFFFFFFFFFFF, *(0x7FFFFFFFFFFFFFF0 + last for last in range(4))}
_BLANK_REAL = 140737488355328.0

# A share of more than the whole by this much is no rounding: it is a mark or an error, and the service takes none.
_LARGEST_RATIO = 1.05


class BlankValue(Exception):
    """The driver answered, and wrote its mark for `no value`."""


def whole(raw: int, factor: float = 1.0, *, bits: int = 64) -> float:
    """Return a whole number times `factor`; raises BlankValue."""
    if raw in (_BLANK_64 if bits == 64 else _BLANK_32):
        raise BlankValue
    return raw * factor if factor != 1.0 else raw


def real(raw: float, factor: float = 1.0, *, is_ratio: bool = False) -> float:
    """Return a number times `factor`; raises BlankValue, also for what is no number or cannot be a share."""
    value = raw * factor
    if not math.isfinite(raw) or raw < 0 or raw >= _BLANK_REAL or (is_ratio and value > _LARGEST_RATIO):
        raise BlankValue
    return value
