"""NVIDIA accelerators, through NVIDIA's management library and its own Python binding.

The driver may come, go, be reloaded or lose a device at any time. While it is away the source says why and looks
again now and then; a lost device is absent, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import pynvml

from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.nvml_device import METRICS, NvmlDevice
from collector.sources.nvml_errors import Fault, classify, explain
from tokenstone.sample import HOST, Absence, DeviceInfo, Reading

RETRY_SECONDS = 10.0
"""How long a missing driver or device is left alone before it is looked for again."""


class NvmlSource(Source):
    """All NVIDIA devices of the node. `root` plays no part: the driver is asked, not a file."""

    name = "nvml"
    metrics = METRICS

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._is_open = False
        self._devices: dict[int, NvmlDevice] = {}
        self._lost: dict[int, str] = {}
        self._known: dict[int, DeviceInfo] = {}
        self._reason = ""
        self._retry_at: float | None = None

    def read(self) -> Parts:
        """Read all devices; SourceUnavailable where there is no driver, no device, or all devices are lost."""
        now = self._monotonic()
        due = self._retry_at is not None and now >= self._retry_at
        if self._lost and due:
            self.close()
        if not self._is_open:
            if self._retry_at is not None and not due:
                raise SourceUnavailable(self._reason)
            self._open(now)
        readings: list[Reading] = []
        absences: list[Absence] = []
        for index, device in list(self._devices.items()):
            try:
                device_readings, device_absences = device.read(now)
            except pynvml.NVMLError as error:
                if classify(error.value) is not Fault.DEVICE_LOST:
                    self._give_up(now, explain(error))
                self._lose(index, explain(error), now)
                continue
            readings += device_readings
            absences += device_absences
        if not self._devices:
            raise SourceUnavailable("; ".join(dict.fromkeys(self._lost.values())))
        for index, reason in self._lost.items():
            known = self._known.get(index)
            text = reason if known else f"device {index}: {reason}"
            absences += [Absence(metric, text, known.id if known else HOST) for metric in METRICS]
        return Parts(tuple(readings), tuple(absences), tuple(self._known.values()))

    def _open(self, now: float) -> None:
        self._retry_at = None
        try:
            pynvml.nvmlInit()
            self._is_open = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._give_up(now, explain(error))
        if count == 0:
            self._give_up(now, "the NVIDIA driver finds no device")
        self._known = {index: info for index, info in self._known.items() if index < count}
        for index in range(count):
            try:
                device = NvmlDevice(index)
            except pynvml.NVMLError as error:
                if classify(error.value) is Fault.DRIVER_LOST:
                    self._give_up(now, explain(error))
                self._lose(index, explain(error), now)
            else:
                self._devices[index] = device
                self._known[index] = device.info

    def _lose(self, index: int, reason: str, now: float) -> None:
        device = self._devices.pop(index, None)
        if device is not None:
            device.close()
        self._lost[index] = reason
        if self._retry_at is None:
            self._retry_at = now + RETRY_SECONDS

    def _give_up(self, now: float, reason: str) -> NoReturn:
        self.close()
        self._reason, self._retry_at = reason, now + RETRY_SECONDS
        raise SourceUnavailable(reason)

    def close(self) -> None:
        """Let go of the driver, so that it can be unloaded or reset."""
        for device in self._devices.values():
            device.close()
        self._devices.clear()
        self._lost.clear()
        if self._is_open:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._is_open = False
