"""What NVIDIA's error codes mean for the agent: whom they concern, and whether asking again can help."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pynvml

from collector.sources.nvml_driver import SwitchedOff


class Fault(Enum):
    """How far an error reaches."""

    UNSUPPORTED = "this device will never answer this call: do not ask again"
    PASSING = "no answer now: ask again at the next tick"
    DEVICE_LOST = "the device is gone until it is reset"
    DRIVER_LOST = "the driver is gone: every handle is void"


_FAULTS = {
    pynvml.NVML_ERROR_INVALID_ARGUMENT: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_NOT_SUPPORTED: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_DEPRECATED: Fault.UNSUPPORTED,
    pynvml.NVML_ERROR_GPU_IS_LOST: Fault.DEVICE_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED: Fault.DEVICE_LOST,
    pynvml.NVML_ERROR_UNINITIALIZED: Fault.DRIVER_LOST,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Fault.DRIVER_LOST,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Fault.DRIVER_LOST,
}

_TEXTS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's library and kernel module differ in version",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the installed driver is too old for it",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this device",
    pynvml.NVML_ERROR_NO_PERMISSION: "not permitted to this user",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the device is lost: it fell off the bus or stopped answering",
    pynvml.NVML_ERROR_RESET_REQUIRED: "the device needs a reset",
}  # fmt: skip

NO_NUMBER = "the driver gave no number"


def classify(error: Any) -> Fault:
    """Say how far an error (an exception or a bare code) reaches."""
    if isinstance(error, SwitchedOff):
        return Fault.UNSUPPORTED
    return _FAULTS.get(error if isinstance(error, int) else error.value, Fault.PASSING)


def explain(error: Any) -> str:
    """Say in words what an error (an exception or a bare code) means."""
    if isinstance(error, SwitchedOff):
        return f"{error} is switched off (nvml_skip)"
    code = error if isinstance(error, int) else error.value
    return _TEXTS.get(code) or str(pynvml.NVMLError(code))


def is_lost(error: Any) -> bool:
    """Say whether the device, or all of them, have gone."""
    return classify(error) in {Fault.DEVICE_LOST, Fault.DRIVER_LOST}
