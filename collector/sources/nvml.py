"""NVIDIA accelerators, through NVIDIA's management library and its own Python binding.

The driver may come, go, be reloaded or lose a device at any time. While it is away the source says why and looks
again now and then; a lost device is absent, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import pynvml

from collector.clock import Clock
from collector.sources import nvml_device, nvml_driver, nvml_events
from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.nvml_device import NvmlDevice, Said
from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import Fault, classify, explain
from collector.sources.nvml_events import XidLog, XidWatcher
from tokenstone.sample import HOST, Absence, DeviceInfo, Reading

RETRY_SECONDS = 10.0
"""How long a missing driver or device is left alone before it is looked for again."""
LONGEST_RETRY_SECONDS = 640.0
"""To look for a lost device, the driver is let go and taken anew, which costs the others a reading: while it stays
away and others are there, it is looked for half as often each time, down to this."""

_OF_A_DEVICE = tuple(dict.fromkeys((*nvml_device.METRICS, *nvml_events.METRICS)))


class NvmlSource(Source):
    """All NVIDIA devices of the node. `root` plays no part: the driver is asked, not a file."""

    name = "nvml"
    metrics = (*_OF_A_DEVICE, *nvml_driver.METRICS)
    measures = True

    def __init__(
        self,
        clock: Clock,
        *,
        slow_seconds: float = 5.0,
        rare_seconds: float = 60.0,
        skip: Iterable[str] = (),
        processes: bool = False,
    ) -> None:
        self._clock, self._processes = clock, processes
        self._driver = NvmlDriver(skip, clock.monotonic)
        self._every = {"slow": slow_seconds, "rare": rare_seconds}
        self._due: dict[str, float] = {}
        self._said: dict[str, Said] = {}
        self._devices: dict[int, NvmlDevice] = {}
        self._lost: dict[int, str] = {}
        self._known: dict[int, DeviceInfo] = {}
        self._xids = XidLog()
        self._watcher: XidWatcher | None = None
        self._reason = ""
        self._retry_at: float | None = None
        self._patience_seconds = RETRY_SECONDS

    def read(self) -> Parts:
        """Read all devices; SourceUnavailable where there is no driver, no device, or all devices are lost."""
        now = self._clock.monotonic()
        due = self._retry_at is not None and now >= self._retry_at
        if self._lost and due:
            self.close()
        if not self._driver.is_open:
            if self._retry_at is not None and not due:
                raise SourceUnavailable(self._reason)
            self._open(now)
        # The rare tier finds instances, which the fast one then reads.
        tiers = [tier for tier in ("rare", "slow") if now >= self._due.get(tier, now)]
        for tier in tiers:
            self._due[tier] = now + self._every[tier]
            self._said[tier] = self._read_all(tier, now)
        readings, absences = self._read_all("fast", now)
        if not self._devices:
            self._retry_at = min(self._retry_at or now, now + RETRY_SECONDS)
            raise SourceUnavailable("; ".join(dict.fromkeys(self._lost.values())))
        if not self._lost:
            self._patience_seconds = RETRY_SECONDS
        held: list[Reading] = []
        for tier, (said_readings, said_absences) in self._said.items():
            (readings if tier in tiers else held).extend(said_readings)
            absences = absences + said_absences
        for index, reason in self._lost.items():
            known = self._known.get(index)
            text = reason if known else f"device {index}: {reason}"
            absences += [Absence(metric, text, known.id if known else HOST) for metric in _OF_A_DEVICE]
        instances = [instance.info for device in self._devices.values() for instance in device.instances.values()]
        return Parts(tuple(readings), tuple(absences), (*self._known.values(), *instances), tuple(held))

    def _read_all(self, tier: str, now: float) -> Said:
        readings: list[Reading] = []
        absences: list[Absence] = []
        for index, device in list(self._devices.items()):
            try:
                said = self._read_one(device, tier, now)
            except pynvml.NVMLError as error:
                if classify(error) is not Fault.DEVICE_LOST:
                    self._give_up(now, error)
                self._lose(index, explain(error), now)
                continue
            readings += said[0]
            absences += said[1]
        if tier == "slow":
            readings += self._driver.costs()
        return readings, absences

    def _read_one(self, device: NvmlDevice, tier: str, now: float) -> Said:
        if tier == "fast":
            return device.read_fast(now)
        if tier == "rare":
            return device.read_rare()
        readings, absences = device.read_slow(now)
        assert self._watcher is not None  # noqa: S101  # made by _open
        more_readings, more_absences = self._watcher.read(device.info.id)
        return readings + more_readings, absences + more_absences

    def _open(self, now: float) -> None:
        self._retry_at = None
        try:
            self._driver.open()
            count = self._driver.call("nvmlDeviceGetCount")
        except (pynvml.NVMLError, SwitchedOff) as error:
            self._give_up(now, error)
        if count == 0:
            self._give_up(now, "the NVIDIA driver finds no device")
        self._known = {index: info for index, info in self._known.items() if index < count}
        for index in range(count):
            try:
                device = NvmlDevice(self._driver, index, processes=self._processes)
            except pynvml.NVMLError as error:
                if classify(error) is Fault.DRIVER_LOST:
                    self._give_up(now, error)
                self._lose(index, explain(error), now)
            else:
                self._devices[index] = device
                self._known[index] = device.info
        self._watcher = XidWatcher(self._driver, self._xids, self._clock.unix)
        self._watcher.start((device.info.id, device.handle) for device in self._devices.values())

    def _lose(self, index: int, reason: str, now: float) -> None:
        device = self._devices.pop(index, None)
        if device is not None:
            gone = {device.info.id, *device.instances}
            device.close()
            for readings, absences in self._said.values():
                readings[:] = [reading for reading in readings if reading.device not in gone]
                absences[:] = [absence for absence in absences if absence.device not in gone]
        self._lost[index] = reason
        if self._retry_at is None:
            self._retry_at = now + self._patience_seconds
            self._patience_seconds = min(2 * self._patience_seconds, LONGEST_RETRY_SECONDS)

    def _give_up(self, now: float, why: Any) -> NoReturn:
        self.close()
        if isinstance(why, pynvml.NVMLError) and why.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            self._driver.unload()
        self._reason = why if isinstance(why, str) else explain(why)
        self._retry_at = now + RETRY_SECONDS
        raise SourceUnavailable(self._reason)

    def close(self) -> None:
        """Let go of the driver, so that it can be unloaded or a device be reset."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        for device in self._devices.values():
            device.close()
        self._devices.clear()
        self._lost.clear()
        self._said.clear()
        self._due.clear()
        self._retry_at = None
        self._driver.close()

    def doing(self) -> str:
        """Name the driver's call that does not return."""
        return self._driver.doing()
