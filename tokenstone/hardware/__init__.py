"""The hardware catalogue: published figures of accelerators, each with its source, date and whether it is verified.

An accelerator that is not in the catalogue has no peak: nothing is guessed from a similar name.
"""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenstone.errors import InvalidValue, UnknownName

Quantity = Literal[
    "peak_flops_per_second",
    "memory_bytes",
    "memory_bytes_per_second",
    "scale_up_bytes_per_second",
    "network_bytes_per_second",
    "power_watts",
]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Row):
    """One published number. Bandwidth is per direction; a peak is that of `dtype`, dense unless said otherwise."""

    quantity: Quantity
    value: float = Field(gt=0)
    dtype: str | None = None
    dense: bool = True
    scope: Literal["device", "node"] = "device"
    source: str
    date: date
    verified: bool = True
    note: str = ""


class Accelerator(_Row):
    """One accelerator. `aliases` are the exact names by which its driver reports it."""

    name: str
    title: str
    vendor: str
    aliases: tuple[str, ...] = ()
    figures: tuple[Figure, ...]
    absent: dict[str, str] = {}
    """Figures that there are not, and why."""

    def figure(self, quantity: Quantity, dtype: str | None = None) -> Figure | None:
        """Return the figure of that quantity (and dtype), or None where none is published."""
        return next((f for f in self.figures if f.quantity == quantity and f.dtype == dtype), None)

    def peak(self, dtype: str) -> Figure:
        """Return the dense peak of `dtype`; raises InvalidValue naming the dtypes that have one."""
        found = self.figure("peak_flops_per_second", dtype)
        if found is None:
            have = ", ".join(f.dtype or "" for f in self.figures if f.quantity == "peak_flops_per_second")
            why = f": {self.absent[dtype]}" if dtype in self.absent else ""
            raise InvalidValue(f"{self.name} has no published {dtype} peak{why}", hint=f"it has one for {have}")
        return found


@cache
def catalogue() -> dict[str, Accelerator]:
    """Return all accelerators by name."""
    text = resources.files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return {
        name: Accelerator(name=name, figures=tuple(_figure(f, data["sources"]) for f in row.pop("figures")), **row)
        for name, row in data["accelerators"].items()
    }


def _figure(entry: dict[str, Any], sources: dict[str, dict[str, str]]) -> Figure:
    source = sources[entry["source"]]
    return Figure.model_validate({**entry, "source": source["title"], "date": source["date"]})


def get(name: str) -> Accelerator:
    """Return the accelerator of that name; raises UnknownName."""
    try:
        return catalogue()[name]
    except KeyError:
        raise UnknownName("hardware", name, catalogue()) from None


def identify(driver_name: str) -> str | None:
    """Return the catalogue name of a device by the exact name its driver gives, or None: no guessing.

    >>> identify("NVIDIA H100 80GB HBM3")
    'h100-sxm'
    >>> identify("NVIDIA H100 PCIe") is None
    True
    """
    wanted = driver_name.strip().lower()
    for accelerator in catalogue().values():
        if wanted in (alias.lower() for alias in accelerator.aliases):
            return accelerator.name
    return None
