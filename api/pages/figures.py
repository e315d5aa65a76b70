"""A figure as pages show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and what it is; without a value, why."""

    title: str
    value: str
    unit: str = ""
    note: str = ""
    absent_reason: str = ""
