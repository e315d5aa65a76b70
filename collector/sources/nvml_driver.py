"""Every call into NVIDIA's library goes through here: timed, countable, and switched off by name.

The library's calls are serialised in the driver and some take milliseconds, so the agent says what each has cost.
"""

from __future__ import annotations

import _ctypes
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pynvml

from tokenstone.sample import Reading, labels

METRICS = ("tokenstone_driver_calls_total", "tokenstone_driver_call_seconds_total")


class SwitchedOff(Exception):
    """The settings forbid this call."""


class NvmlDriver:
    """The library, its calls named as in `pynvml`. Handles of before an `open` are void after it.

    `skip` names calls that are never made.
    """

    def __init__(self, skip: Iterable[str] = (), monotonic: Callable[[], float] = time.monotonic) -> None:
        self._skip, self._monotonic = frozenset(skip), monotonic
        self._costs: dict[str, list[float]] = {}
        self._in_flight = ""
        self.is_open = False

    def open(self) -> None:
        """Take the driver; raises NVMLError."""
        self.call("nvmlInit")
        self.is_open = True

    def close(self) -> None:
        """Let go of the driver, so that it can be unloaded or a device be reset."""
        if self.is_open:
            with suppress(pynvml.NVMLError):
                self.call("nvmlShutdown")
        self.is_open = False

    def unload(self) -> None:
        """Forget the library, so that the next `open` loads the one that is installed now.

        After an upgrade of the driver the library of before is still in our memory, and no longer fits the kernel's
        module. No other thread may be in a call.
        """
        self.close()
        library, pynvml.nvmlLib = pynvml.nvmlLib, None
        pynvml._nvmlGetFunctionPointer_cache.clear()
        if library is not None:
            _ctypes.dlclose(library._handle)

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        """Make the call `name`; raises NVMLError, also for one that binding or library are too old for."""
        return self._timed(name, self._binding(name), *arguments, **more)

    def raw(self, name: str, *arguments: Any) -> None:
        """As `call`, but the library's own function: arguments as it wants them, and results are written to those."""
        self._check(name)
        pynvml._nvmlCheckReturn(self._timed(name, pynvml._nvmlGetFunctionPointer(name), *arguments))

    def wait(self, name: str, *arguments: Any) -> Any:
        """As `call`, for a thread that waits for the driver: its time is no cost, and it may take for ever."""
        return self._binding(name)(*arguments)

    def _binding(self, name: str) -> Callable[..., Any]:
        self._check(name)
        function: Callable[..., Any] | None = getattr(pynvml, name, None)
        if function is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return function

    def _check(self, name: str) -> None:
        if name in self._skip:
            raise SwitchedOff(name)

    def _timed(self, name: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        cost = self._costs.setdefault(name, [0, 0.0])
        self._in_flight, start = name, self._monotonic()
        try:
            return function(*arguments, **more)
        except pynvml.NVMLLibraryMismatchError:  # an error of the binding, and no NVMLError
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND) from None
        finally:
            self._in_flight = ""
            cost[0] += 1
            cost[1] += self._monotonic() - start

    def doing(self) -> str:
        """Return the call that is under way, or nothing."""
        name = self._in_flight
        return f"{name} does not return" if name else ""

    def costs(self) -> list[Reading]:
        """Return how often each call was made and how long that took, in all."""
        readings = []
        for name, (calls, seconds) in sorted(self._costs.items()):
            by = labels(source="nvml", call=name)
            readings.append(Reading(METRICS[0], calls, labels=by))
            readings.append(Reading(METRICS[1], seconds, labels=by))
        return readings
