"""One NVIDIA device: all that it is asked, in three cadences, and its instances (MIG) as devices of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pynvml

from collector.sources import nvml_calls, nvml_fields, nvml_gpm
from collector.sources.nvml_calls import CallReader
from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import is_lost
from collector.sources.nvml_fields import FieldReader
from collector.sources.nvml_gpm import GpmReader
from collector.sources.nvml_values import Value
from tokenstone.sample import Absence, DeviceInfo, Reading

METRICS = tuple(
    dict.fromkeys(
        [
            *(metric for query in (*nvml_calls.FAST, *nvml_calls.SLOW) for metric in query.metrics),
            *nvml_fields.METRICS,
            *nvml_gpm.METRICS,
        ]
    )
)
"""Everything that a device may be able to give."""

Said = tuple[list[Reading], list[Absence]]


class NvmlDevice:
    """One device and its capabilities, found by asking: what it does not support is not asked for again."""

    def __init__(self, driver: NvmlDriver, index: int, *, processes: bool) -> None:
        self._driver = driver
        self.handle = driver.call("nvmlDeviceGetHandleByIndex", index)
        self.info = describe(driver, self.handle, index)
        self._calls = CallReader(driver, self.handle, nvml_calls.FAST)
        self._fields = FieldReader(driver, self.handle, nvml_fields.FAST)
        self._instead: dict[str, CallReader] = {}
        self._slow_calls = CallReader(driver, self.handle, nvml_calls.SLOW)
        self._slow_fields = FieldReader(driver, self.handle, nvml_fields.SLOW)
        self._processes = CallReader(driver, self.handle, [nvml_calls.PROCESSES] if processes else [])
        self._gpm = GpmReader(driver, self.handle)
        self.instances: dict[str, MigInstance] = {}

    def read_fast(self, now: float) -> Said:
        """Ask what changes from moment to moment. Raises NVMLError only where device or driver is lost."""
        values, missing = self._calls.read()
        field_values, field_missing = self._fields.read(now)
        for metric, query in nvml_calls.INSTEAD_OF_FIELDS.items():
            if self._fields.lacks(metric):
                reader = self._instead.setdefault(metric, CallReader(self._driver, self.handle, [query]))
                more_values, more_missing = reader.read()
                field_values += more_values
                field_missing = [(name, why) for name, why in field_missing if name != metric] + more_missing
        gpm_values, gpm_missing = self._gpm.read(now)
        said = _said(self.info.id, values + field_values + gpm_values, missing + field_missing + gpm_missing)
        for instance in self.instances.values():
            readings, absences = instance.read(now)
            said[0].extend(readings)
            said[1].extend(absences)
        return said

    def read_slow(self, now: float) -> Said:
        """Ask what changes slowly: clocks, temperature, limits, errors."""
        values, missing = self._slow_calls.read()
        field_values, field_missing = self._slow_fields.read(now)
        return _said(self.info.id, values + field_values, missing + field_missing)

    def read_rare(self) -> Said:
        """Look for instances, and count processes where that is wanted."""
        self._find_instances()
        return _said(self.info.id, *self._processes.read())

    def _find_instances(self) -> None:
        found: dict[str, MigInstance] = {}
        try:
            if self._driver.call("nvmlDeviceGetMigMode", self.handle)[0]:
                for place in range(self._driver.call("nvmlDeviceGetMaxMigDeviceCount", self.handle)):
                    try:
                        handle = self._driver.call("nvmlDeviceGetMigDeviceHandleByIndex", self.handle, place)
                    except pynvml.NVMLError_NotFound:
                        continue
                    uuid = self._driver.call("nvmlDeviceGetUUID", handle)
                    found[uuid] = self.instances.get(uuid) or MigInstance(self._driver, self, handle)
        except (pynvml.NVMLError, SwitchedOff) as error:
            if is_lost(error):
                raise
        for uuid, instance in self.instances.items():
            if uuid not in found:
                instance.close()
        self.instances = found

    def close(self) -> None:
        """Release what the driver holds for us."""
        self._gpm.close()
        for instance in self.instances.values():
            instance.close()


class MigInstance:
    """A part of a device that computes alone (MIG). Power, clocks and links are those of the whole device."""

    def __init__(self, driver: NvmlDriver, parent: NvmlDevice, handle: Any) -> None:
        number = driver.call("nvmlDeviceGetGpuInstanceId", handle)
        self.info = describe(driver, handle, parent.info.index)
        self._memory = CallReader(driver, handle, [nvml_calls.MEMORY])
        self._gpm = GpmReader(driver, parent.handle, instance=number)

    def read(self, now: float) -> Said:
        """Return the instance's own memory and activity."""
        values, missing = self._memory.read()
        gpm_values, gpm_missing = self._gpm.read(now)
        return _said(self.info.id, values + gpm_values, missing + gpm_missing)

    def close(self) -> None:
        """Release what the driver holds for us."""
        self._gpm.close()


def _said(device: str, values: list[Value], missing: list[tuple[str, str]]) -> Said:
    return (
        [Reading(metric, value, device, by) for metric, value, by in values],
        [Absence(metric, reason, device) for metric, reason in dict.fromkeys(missing)],
    )


def describe(driver: NvmlDriver, handle: Any, index: int) -> DeviceInfo:
    """Return what the driver calls the device; raises NVMLError. Memory is None where the driver does not tell."""
    info = DeviceInfo(
        id=driver.call("nvmlDeviceGetUUID", handle),
        kind="accelerator",
        vendor="NVIDIA",
        model=driver.call("nvmlDeviceGetName", handle),
        index=index,
    )
    values, _ = CallReader(driver, handle, [nvml_calls.MEMORY]).read()
    total = {metric: value for metric, value, _ in values}.get("accel_memory_total_bytes")
    return info if total is None else replace(info, memory_bytes=int(total))
