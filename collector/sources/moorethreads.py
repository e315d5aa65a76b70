"""Moore Threads accelerators, through the maker's library and its own Python binding (`mthreads-ml-py`).

Only the library's own `mtml` calls are made. The binding also has functions with NVML's names, which answer
plausible zeros where the device does not support a thing. Power is in milliwatts, clocks in megahertz (mtml.h).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from collector.sources.accelerator import Found, make_parts
from collector.sources.base import Parts, Source, SourceUnavailable
from tokenstone.sample import Absence

RETRY_SECONDS = 30.0

_Ask = Callable[[Any, Any, Any, Any], Iterable[tuple[str, float, dict[str, str]]]]


def _busy(mtml: Any, _device: Any, gpu: Any, _memory: Any) -> Iterable[tuple[str, float, dict[str, str]]]:
    yield "accel_busy_ratio", mtml.mtmlGpuGetUtilization(gpu) * 0.01, {}


def _memory_size(mtml: Any, _device: Any, _gpu: Any, memory: Any) -> Iterable[tuple[str, float, dict[str, str]]]:
    yield "accel_memory_used_bytes", mtml.mtmlMemoryGetUsed(memory), {}
    yield "accel_memory_total_bytes", mtml.mtmlMemoryGetTotal(memory), {}


def _power(mtml: Any, device: Any, _gpu: Any, _memory: Any) -> Iterable[tuple[str, float, dict[str, str]]]:
    yield "accel_power_watts", mtml.mtmlDeviceGetPowerUsage(device) * 1e-3, {}


def _temperature(mtml: Any, _device: Any, gpu: Any, _memory: Any) -> Iterable[tuple[str, float, dict[str, str]]]:
    yield "accel_temperature_celsius", mtml.mtmlGpuGetTemperature(gpu), {}


def _clocks(mtml: Any, _device: Any, gpu: Any, memory: Any) -> Iterable[tuple[str, float, dict[str, str]]]:
    yield "accel_clock_hertz", mtml.mtmlGpuGetClock(gpu) * 1e6, {"domain": "compute"}
    yield "accel_clock_hertz", mtml.mtmlMemoryGetClock(memory) * 1e6, {"domain": "memory"}


_QUERIES: tuple[tuple[str, tuple[str, ...], _Ask], ...] = (
    ("load", ("accel_busy_ratio",), _busy),
    ("memory", ("accel_memory_used_bytes", "accel_memory_total_bytes"), _memory_size),
    ("power", ("accel_power_watts",), _power),
    ("temperature", ("accel_temperature_celsius",), _temperature),
    ("clocks", ("accel_clock_hertz",), _clocks),
)


class MooreThreadsSource(Source):
    """All Moore Threads devices of the node."""

    name = "moorethreads"
    metrics = tuple(metric for _, metrics, _ in _QUERIES for metric in metrics)
    measures = True
    deadline_seconds = 10.0

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._mtml: Any = None
        self._devices: list[tuple[int, Any, Any, Any, str, str]] = []
        self._lost: dict[int, str] = {}
        self._reason, self._retry_at = "", 0.0

    def read(self) -> Parts:
        """Read all devices; SourceUnavailable where there is no library, driver or device."""
        if self._lost and self._monotonic() >= self._retry_at:
            self.close()
        if self._mtml is None:
            self._open()
        mtml = self._mtml
        found: list[Found] = []
        for index, device, gpu, memory, uuid, name in self._devices:
            card = Found(uuid, "Moore Threads", name, index)
            for what, metrics, ask in _QUERIES:
                try:
                    for metric, value, by in ask(mtml, device, gpu, memory):
                        card.put(metric, value, 1.0, **by)
                except mtml.MTMLError as error:
                    card.why |= dict.fromkeys(metrics, f"{what}: {error}")
            found.append(card)
        if found and not any(card.values for card in found):
            reason = next(iter(found[0].why.values()))
            self.close()
            raise SourceUnavailable(f"no device answers: {reason}")
        parts = make_parts(found, self.metrics, "mtml")
        lost = [Absence(metric, reason) for reason in self._lost.values() for metric in self.metrics]
        return replace(parts, absences=(*parts.absences, *lost))

    def _open(self) -> None:
        if self._monotonic() < self._retry_at:
            raise SourceUnavailable(self._reason)
        try:
            mtml = importlib.import_module("pymtml")
        except ModuleNotFoundError:
            self._fail("Moore Threads' binding is not installed: pip install 'tokenstone[moorethreads]'")
            return
        try:
            mtml.mtmlLibraryInit()
            self._mtml = mtml
            for index in range(mtml.mtmlLibraryCountDevice()):
                try:
                    device = mtml.mtmlLibraryInitDeviceByIndex(index)
                    gpu, memory = mtml.mtmlDeviceInitGpu(device), mtml.mtmlDeviceInitMemory(device)
                    name, uuid = mtml.mtmlDeviceGetName(device), mtml.mtmlDeviceGetUUID(device)
                    self._devices.append((index, device, gpu, memory, uuid, name))
                except mtml.MTMLError as error:
                    self._lost[index] = f"device {index}: {error}"
                    self._retry_at = self._monotonic() + RETRY_SECONDS
        except OSError:
            self._fail("Moore Threads' management library (libmtml.so) is not installed")
        except mtml.MTMLError as error:
            self.close()
            self._fail(f"mtml: {error}")

    def _fail(self, reason: str) -> None:
        self._reason, self._retry_at = reason, self._monotonic() + RETRY_SECONDS
        raise SourceUnavailable(reason)

    def close(self) -> None:
        """Give the handles back and let go of the driver."""
        if self._mtml is not None:
            with suppress(self._mtml.MTMLError):
                for _, device, gpu, memory, _, _ in self._devices:
                    self._mtml.mtmlDeviceFreeGpu(gpu)
                    self._mtml.mtmlDeviceFreeMemory(memory)
                    self._mtml.mtmlLibraryFreeDevice(device)
                self._mtml.mtmlLibraryShutDown()
        self._mtml, self._devices, self._lost = None, [], {}
