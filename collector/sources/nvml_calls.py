"""What is asked of a device one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pynvml

from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import NO_NUMBER, Fault, classify, explain, is_lost
from collector.sources.nvml_values import BlankValue, Value, real, whole
from tokenstone.sample import labels

_THROTTLE_REASONS = {
    0x4: labels(reason="software_power_cap"),
    0x8: labels(reason="hardware_slowdown"),
    0x10: labels(reason="sync_boost"),
    0x20: labels(reason="software_thermal"),
    0x40: labels(reason="hardware_thermal"),
    0x80: labels(reason="hardware_power_brake"),
}

_Answers = Iterable[Value]
_Ask = Callable[[NvmlDriver, Any], _Answers]


class Query(NamedTuple):
    """One question, the metrics that its answer gives, and how it is put."""

    what: str
    metrics: tuple[str, ...]
    ask: _Ask


def _busy(driver: NvmlDriver, handle: Any) -> _Answers:
    rates = driver.call("nvmlDeviceGetUtilizationRates", handle)
    return [("accel_busy_ratio", real(whole(rates.gpu, bits=32), 0.01, is_ratio=True), ())]


def _memory(driver: NvmlDriver, handle: Any) -> _Answers:
    try:
        memory = driver.call("nvmlDeviceGetMemoryInfo", handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        # Before driver 510: what the driver reserves for itself is then counted as used.
        memory = driver.call("nvmlDeviceGetMemoryInfo", handle)
    return [("accel_memory_used_bytes", whole(memory.used), ()), ("accel_memory_total_bytes", whole(memory.total), ())]


def _simple(call: str, metric: str, factor: float, *arguments: int, bits: int = 32, **by: str) -> _Ask:
    by_labels = labels(**by)

    def ask(driver: NvmlDriver, handle: Any) -> _Answers:
        return [(metric, whole(driver.call(call, handle, *arguments), factor, bits=bits), by_labels)]

    return ask


def _throttled(driver: NvmlDriver, handle: Any) -> _Answers:
    try:
        mask = driver.call("nvmlDeviceGetCurrentClocksEventReasons", handle)
    except pynvml.NVMLError_FunctionNotFound:
        mask = driver.call("nvmlDeviceGetCurrentClocksThrottleReasons", handle)  # its name before driver 535
    whole(mask)
    return [("accel_throttled_ratio", float(bool(mask & bit)), by) for bit, by in _THROTTLE_REASONS.items()]


def _processes(driver: NvmlDriver, handle: Any) -> _Answers:
    found = driver.call("nvmlDeviceGetComputeRunningProcesses_v3", handle)
    yield "accel_processes", len(found), ()
    for process in found:
        if process.usedGpuMemory is not None:  # None in a container that does not see its own process's memory
            yield "accel_process_memory_bytes", process.usedGpuMemory, labels(pid=str(process.pid))


_BUSY, _CLOCK = ("accel_busy_ratio",), ("accel_clock_hertz",)
_MEMORY = ("accel_memory_used_bytes", "accel_memory_total_bytes")
FAST = (Query("utilization", _BUSY, _busy), Query("memory", _MEMORY, _memory))
"""Asked at every tick."""

SLOW = (
    Query("power limit", ("accel_power_limit_watts",),
          _simple("nvmlDeviceGetEnforcedPowerLimit", "accel_power_limit_watts", 1e-3)),
    Query("temperature", ("accel_temperature_celsius",),
          _simple("nvmlDeviceGetTemperature", "accel_temperature_celsius", 1.0, pynvml.NVML_TEMPERATURE_GPU)),
    Query("compute clock", _CLOCK,
          _simple("nvmlDeviceGetClockInfo", "accel_clock_hertz", 1e6, pynvml.NVML_CLOCK_SM, domain="compute")),
    Query("memory clock", _CLOCK,
          _simple("nvmlDeviceGetClockInfo", "accel_clock_hertz", 1e6, pynvml.NVML_CLOCK_MEM, domain="memory")),
    Query("throttle reasons", ("accel_throttled_ratio",), _throttled),
)  # fmt: skip
"""Asked now and then."""

PROCESSES = Query("processes", ("accel_processes", "accel_process_memory_bytes"), _processes)

INSTEAD_OF_FIELDS = {
    "accel_power_watts": Query("power", ("accel_power_watts",),
                               _simple("nvmlDeviceGetPowerUsage", "accel_power_watts", 1e-3)),
    "accel_energy_joules_total": Query(
        "energy", ("accel_energy_joules_total",),
        _simple("nvmlDeviceGetTotalEnergyConsumption", "accel_energy_joules_total", 1e-3, bits=64)),
}  # fmt: skip
"""What older drivers give by a call and not yet by a field."""

MEMORY = FAST[1]


class CallReader:
    """Some questions to one device; those it turned out not to answer are not put again."""

    def __init__(self, driver: NvmlDriver, handle: Any, queries: Iterable[Query]) -> None:
        self._driver, self._handle, self._queries = driver, handle, tuple(queries)
        self._off: dict[str, str] = {}

    def read(self) -> tuple[list[Value], list[tuple[str, str]]]:
        """Return values, and why metrics are missing. Raises NVMLError only where device or driver is lost."""
        values: list[Value] = []
        missing: list[tuple[str, str]] = []
        for query in self._queries:
            reason = self._off.get(query.what) or self._ask(query, values)
            if reason is not None:
                missing += [(metric, reason) for metric in query.metrics]
        return values, missing

    def _ask(self, query: Query, values: list[Value]) -> str | None:
        try:
            values.extend(query.ask(self._driver, self._handle))
        except BlankValue:
            return f"{query.what}: {NO_NUMBER}"
        except (pynvml.NVMLError, SwitchedOff) as error:
            if is_lost(error):
                raise
            reason = f"{query.what}: {explain(error)}"
            if classify(error) is Fault.UNSUPPORTED:
                self._off[query.what] = reason
            return reason
        return None
