"""The hardware's limit that a run is held against: the catalogue's where the device is known, else the probe's.

A limit is never taken from similar hardware. Without one there is no score, and the reason says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenstone import hardware
from tokenstone.wire import Facts, RunView


@dataclass(frozen=True, slots=True)
class Roofline:
    """The hardware's limit for one dtype, per device, and where it is from."""

    hardware: str
    dtype: str
    peak_flops_per_second: float
    memory_bytes_per_second: float | None
    provenance: Literal["catalogue", "probe"]
    source: str


def find_roofline(run: RunView, facts: Facts) -> tuple[Roofline | None, list[str]]:
    """Return the limit that `ideal` is taken against: the catalogue's, else the probe's, else none with the reason."""
    names = {device.hardware for device in run.devices}
    if len(names) > 1:
        return None, ["mixed_hardware"]
    [name] = names
    if name is not None:
        published = catalogue_roofline(name, run.spec.dtype)
        if published is not None:
            return published, []
    probe = facts.probe
    if probe is not None and probe.dtype == run.spec.dtype:
        source = f"measured on this device, best of {probe.repetitions} ({probe.conditions or 'no conditions given'})"
        return Roofline(
            probe.device_name, probe.dtype, probe.gemm_flops_per_second, probe.memory_bytes_per_second, "probe", source
        ), []
    return None, ["unknown_peak"]


def catalogue_roofline(name: str, dtype: str) -> Roofline | None:
    """The catalogue's limit of a device; None where it has no peak of that dtype. Raises UnknownName."""
    known = hardware.get(name)
    peak = known.figure("peak_flops_per_second", dtype)
    memory = known.figure("memory_bytes_per_second")
    if peak is None:
        return None
    source = peak.source if peak.verified else f"{peak.source} (unverified)"
    return Roofline(name, dtype, peak.value, memory.value if memory else None, "catalogue", source)


def scale_up_bytes_per_second(run: RunView) -> float | None:
    """Published capacity of a device's scale-up links, one direction; None where it is not known."""
    names = {device.hardware for device in run.devices}
    if len(names) != 1 or None in names:
        return None
    figure = hardware.get(str(names.pop())).figure("scale_up_bytes_per_second")
    return figure.value if figure else None
