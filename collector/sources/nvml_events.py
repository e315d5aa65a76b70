"""XIDs: errors that the driver reports as events, each once and without a history. So a thread waits for them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pynvml

from collector.sources.nvml_driver import NvmlDriver, SwitchedOff
from collector.sources.nvml_errors import Fault, classify, explain
from tokenstone.sample import Absence, Reading, labels

METRICS = ("accel_xid_errors_total", "accel_xid_last_timestamp_seconds", "accel_errors_total")
WAIT_MILLISECONDS = 1000
_XID = pynvml.nvmlEventTypeXidCriticalError
# There are about two hundred; more than these on one device is a driver gone mad.
_MOST_NUMBERS = 64


class XidLog:
    """What has been seen since the agent started, also over a reload of the driver. Safe for two threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._seen: dict[str, dict[str, tuple[int, float]]] = {}
        self._totals: dict[str, int] = {}

    def add(self, device: str, xid: int, unix_seconds: float) -> None:
        """Count one."""
        with self._guard:
            seen = self._seen.setdefault(device, {})
            name = str(xid) if str(xid) in seen or len(seen) < _MOST_NUMBERS else "other"
            seen[name] = (seen.get(name, (0, 0.0))[0] + 1, unix_seconds)
            self._totals[device] = self._totals.get(device, 0) + 1

    def readings(self, device: str) -> list[Reading]:
        """Return the counts of a device that is watched: a total that begins at zero, and each number that came."""
        with self._guard:
            seen, total = dict(self._seen.get(device, {})), self._totals.get(device, 0)
        readings = [Reading("accel_errors_total", total, device, labels(type="xid"))]
        for name, (count, last) in sorted(seen.items()):
            by = labels(xid=name)
            readings.append(Reading("accel_xid_errors_total", count, device, by))
            readings.append(Reading("accel_xid_last_timestamp_seconds", last, device, by))
        return readings


class XidWatcher:
    """Waits for events of some devices, from `start` to `stop`."""

    def __init__(self, driver: NvmlDriver, seen: XidLog, unix: Callable[[], float]) -> None:
        self._driver, self._seen, self._unix, self._wait = driver, seen, unix, WAIT_MILLISECONDS
        self._stopping = threading.Event()
        self._events: Any = None
        self._thread: threading.Thread | None = None
        self._reasons: dict[str, str] = {}
        self._watched: set[str] = set()
        self._failure = ""

    def start(self, handles: Iterable[tuple[str, Any]]) -> None:
        """Watch these devices (id and handle); why one cannot be watched is told by `read`."""
        try:
            self._events = self._driver.call("nvmlEventSetCreate")
        except (pynvml.NVMLError, SwitchedOff) as error:
            self._failure = f"error events: {explain(error)}"
            return
        for device, handle in handles:
            try:
                self._driver.call("nvmlDeviceRegisterEvents", handle, _XID, self._events)
                self._watched.add(device)
            except (pynvml.NVMLError, SwitchedOff) as error:
                self._reasons[device] = f"error events: {explain(error)}"
        if self._watched:
            self._thread = threading.Thread(target=self._run, name="tokenstone-xid", daemon=True)
            self._thread.start()

    def read(self, device: str) -> tuple[list[Reading], list[Absence]]:
        """Return what has been counted of a device, or why nothing is."""
        if device in self._watched and not self._failure:
            return self._seen.readings(device), []
        reason = self._failure or self._reasons.get(device, "error events: not watched")
        return [], [Absence(metric, reason, device) for metric in METRICS]

    def _run(self) -> None:
        names: dict[Any, str] = {}
        while not self._stopping.is_set():
            try:
                event = self._driver.wait("nvmlEventSetWait_v2", self._events, self._wait)
                if event.eventType & _XID:
                    key = ctypes.cast(event.device, ctypes.c_void_p).value
                    if key not in names:
                        names[key] = self._driver.wait("nvmlDeviceGetUUID", event.device)
                    self._seen.add(names[key], int(event.eventData), self._unix())
            except pynvml.NVMLError_Timeout:
                continue
            except (pynvml.NVMLError, SwitchedOff) as error:
                if classify(error) in {Fault.DRIVER_LOST, Fault.UNSUPPORTED}:
                    self._failure = f"error events: {explain(error)}"
                    return
                self._stopping.wait(self._wait / 1000)

    def stop(self) -> None:
        """Stop waiting and give the events back; takes as long as one wait."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * self._wait / 1000 + 1)
        if self._events is not None and (self._thread is None or not self._thread.is_alive()):
            with suppress(pynvml.NVMLError, SwitchedOff):
                self._driver.call("nvmlEventSetFree", self._events)
        self._events = None
