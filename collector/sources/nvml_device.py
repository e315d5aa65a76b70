"""One NVIDIA device: what it is asked, and what it turned out not to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pynvml

from collector.sources import nvml_gpm
from collector.sources.nvml_errors import Fault, classify, explain
from collector.sources.nvml_gpm import GpmReader, Value
from tokenstone.sample import Absence, DeviceInfo, Reading, labels

# What the driver writes where it has no value, as 32 and 64 bits.
_BLANKS = {0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}

_THROTTLE_REASONS = {
    "software_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "software_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hardware_power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
}


class BlankValue(Exception):
    """The driver answered, and wrote its mark for `no value`."""


def _number(raw: int, factor: float = 1.0) -> float:
    if raw in _BLANKS:
        raise BlankValue
    return raw * factor


def _busy(handle: Any) -> Iterable[Value]:
    yield "accel_busy_ratio", _number(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, 0.01), ()


def _memory(handle: Any) -> Iterable[Value]:
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        # Before driver 510: what the driver reserves for itself is then counted as used.
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    yield "accel_memory_used_bytes", _number(memory.used), ()
    yield "accel_memory_total_bytes", _number(memory.total), ()


def _power(handle: Any) -> Iterable[Value]:
    yield "accel_power_watts", _number(pynvml.nvmlDeviceGetPowerUsage(handle), 1e-3), ()


def _power_limit(handle: Any) -> Iterable[Value]:
    yield "accel_power_limit_watts", _number(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle), 1e-3), ()


def _energy(handle: Any) -> Iterable[Value]:
    yield "accel_energy_joules_total", _number(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3), ()


def _temperature(handle: Any) -> Iterable[Value]:
    celsius = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    yield "accel_temperature_celsius", _number(celsius), ()


def _clock(domain: str, code: int) -> Callable[[Any], Iterable[Value]]:
    def read(handle: Any) -> Iterable[Value]:
        hertz = _number(pynvml.nvmlDeviceGetClockInfo(handle, code), 1e6)
        yield "accel_clock_hertz", hertz, labels(domain=domain)

    return read


def _throttled(handle: Any) -> Iterable[Value]:
    try:
        mask = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError_FunctionNotFound:
        mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)  # its name before driver 535
    for reason, bit in _THROTTLE_REASONS.items():
        yield "accel_throttled_ratio", float(bool(mask & bit)), labels(reason=reason)


@dataclass(frozen=True, slots=True)
class _Query:
    what: str
    metrics: tuple[str, ...]
    read: Callable[[Any], Iterable[Value]]


_QUERIES = (
    _Query("utilization", ("accel_busy_ratio",), _busy),
    _Query("memory", ("accel_memory_used_bytes", "accel_memory_total_bytes"), _memory),
    _Query("power", ("accel_power_watts",), _power),
    _Query("power limit", ("accel_power_limit_watts",), _power_limit),
    _Query("energy", ("accel_energy_joules_total",), _energy),
    _Query("temperature", ("accel_temperature_celsius",), _temperature),
    _Query("compute clock", ("accel_clock_hertz",), _clock("compute", pynvml.NVML_CLOCK_SM)),
    _Query("memory clock", ("accel_clock_hertz",), _clock("memory", pynvml.NVML_CLOCK_MEM)),
    _Query("throttle reasons", ("accel_throttled_ratio",), _throttled),
)

METRICS = tuple(dict.fromkeys(metric for query in _QUERIES for metric in query.metrics)) + nvml_gpm.METRICS
"""Everything that a device may be able to give."""


class NvmlDevice:
    """One device and its capabilities, found by asking: what it does not support is not asked for again."""

    def __init__(self, index: int) -> None:
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.info = describe(self._handle, index)
        self._gpm = GpmReader(self._handle)
        self._off: dict[str, str] = {}

    def read(self, monotonic_seconds: float) -> tuple[list[Reading], list[Absence]]:
        """Ask everything the device is known to answer. Raises NVMLError only where device or driver is lost."""
        values: list[Value] = []
        missing: list[tuple[str, str]] = []
        for query in _QUERIES:
            reason = self._off.get(query.what) or self._ask(query, values)
            if reason is not None:
                missing += [(metric, reason) for metric in query.metrics]
        try:
            gpm_values, gpm_missing = self._gpm.read(monotonic_seconds)
            values += gpm_values
            missing += gpm_missing.items()
        except pynvml.NVMLError as error:
            self._raise_if_lost(error)
            missing += [(metric, f"performance monitoring: {explain(error)}") for metric in nvml_gpm.METRICS]
        readings = [Reading(metric, value, self.info.id, by) for metric, value, by in values]
        return readings, [Absence(metric, reason, self.info.id) for metric, reason in missing]

    def _ask(self, query: _Query, values: list[Value]) -> str | None:
        """Append the answer to `values`, or return why there is none."""
        try:
            values.extend(query.read(self._handle))
        except BlankValue:
            return f"{query.what}: the driver gave no number"
        except pynvml.NVMLError as error:
            self._raise_if_lost(error)
            reason = f"{query.what}: {explain(error)}"
            if classify(error.value) is Fault.UNSUPPORTED:
                self._off[query.what] = reason
            return reason
        return None

    @staticmethod
    def _raise_if_lost(error: Any) -> None:
        if classify(error.value) in {Fault.DEVICE_LOST, Fault.DRIVER_LOST}:
            raise error

    def close(self) -> None:
        """Release what the driver holds for us."""
        self._gpm.close()


def describe(handle: Any, index: int) -> DeviceInfo:
    """Return what the driver calls the device; raises NVMLError. Memory is None where the driver does not tell."""
    try:
        memory_bytes: int | None = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        if classify(error.value) in {Fault.DEVICE_LOST, Fault.DRIVER_LOST}:
            raise
        memory_bytes = None
    return DeviceInfo(
        id=pynvml.nvmlDeviceGetUUID(handle),
        kind="accelerator",
        vendor="NVIDIA",
        model=pynvml.nvmlDeviceGetName(handle),
        index=index,
        memory_bytes=None if memory_bytes in _BLANKS else memory_bytes,
    )
