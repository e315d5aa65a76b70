"""The device that a workload runs on: an accelerator where torch knows one, the CPU otherwise."""

from __future__ import annotations

import os
import platform
import resource
import sys
from dataclasses import dataclass, replace

import torch

from tokenstone.errors import InvalidValue, UnknownName

DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Our names of number formats that torch multiplies everywhere."""


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype for `name`; raises UnknownName."""
    try:
        return DTYPES[name]
    except KeyError:
        raise UnknownName("dtype", name, DTYPES) from None


def require_fp32(dtype: str) -> None:
    """Raise unless the reference model serves in `dtype`: fp32, so far the only one."""
    torch_dtype(dtype)
    if dtype != "fp32":
        raise InvalidValue(f"the reference model does not run in {dtype}", where="dtype", hint="use fp32")


def require_training_dtype(dtype: str) -> None:
    """Raise unless the reference model trains in `dtype`: fp32, or bf16 over fp32 weights."""
    torch_dtype(dtype)
    if dtype not in {"fp32", "bf16"}:
        raise InvalidValue(f"the reference model does not train in {dtype}", where="dtype", hint="use fp32 or bf16")


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device, its names, and what torch offers differently for each kind."""

    torch: torch.device
    id: str
    """As the driver names it ("GPU-<uuid>"), so that telemetry can be joined; "host" for the CPU."""
    name: str
    threads: int | None
    """CPU threads of one operation; None on an accelerator."""

    @property
    def type(self) -> str:
        """Kind of device as torch calls it: cpu, cuda, xpu, npu, ..."""
        return self.torch.type

    def synchronize(self) -> None:
        """Wait until everything that was given to the device is done. The CPU has always finished."""
        if self.type != "cpu":
            torch.accelerator.synchronize(self.torch)

    def peak_memory_bytes(self) -> int:
        """Most memory held so far: allocated on the accelerator, or resident in this process on the CPU."""
        if self.type != "cpu":
            return int(torch.accelerator.max_memory_allocated(self.torch))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select_device(threads: int | None = None) -> Device:
    """Return the accelerator, or the CPU with `threads` threads (default: every core we may use)."""
    if threads is not None and not 1 <= threads <= 4096:
        raise InvalidValue(f"{threads} threads", where="--threads", hint="give 1 or more")
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        assert found is not None  # is_available() has said so
        index = torch.accelerator.current_device_index()
        return _accelerator(torch.device(found.type, index))
    count = threads or available_cores()
    torch.set_num_threads(count)
    processor = platform.processor() or platform.machine()
    name = f"{processor} {torch.backends.cpu.get_cpu_capability()}, {available_cores()} cores"
    return Device(torch.device("cpu"), "host", name, count)


def select_rank_device(rank: int, ranks: int, threads: int | None = None) -> Device:
    """Return the device of one of several ranks: its accelerator, or its share of the CPU's cores.

    `processes.device_of` has chosen the accelerator. Ranks on a CPU are numbered, since they are parts of one host.
    """
    device = select_device(threads or max(1, available_cores() // ranks))
    return replace(device, id=f"{device.id}:{rank}") if device.type == "cpu" else device


def _accelerator(device: torch.device) -> Device:
    module = torch.get_device_module(device)
    properties = module.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    known = f"GPU-{uuid}" if device.type == "cuda" and uuid is not None else str(device)
    return Device(device, known, str(getattr(properties, "name", device.type)), None)
