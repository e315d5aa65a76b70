"""Both probes of one device."""

from __future__ import annotations

import torch

from tokenstone.wire import Probe
from workloads.device import Device, torch_dtype
from workloads.probes.gemm import gemm_rate
from workloads.probes.memory import memory_rate
from workloads.progress import Progress, Silent


def probe(dtype: str, device: Device, *, seconds: float = 4.0, progress: Progress | None = None) -> Probe:
    """Measure for about `seconds`, and a second of preparation. Raises UnknownName for the dtype."""
    torch_dtype(dtype)
    progress = progress or Silent()
    progress.phase("gemm")
    gemm, size = gemm_rate(dtype, device, seconds=seconds * 0.7)
    progress.phase("memory")
    memory = memory_rate(device, seconds=seconds * 0.3)
    return Probe(
        device_id=device.id,
        device_name=device.name,
        device_type=device.type,
        threads=device.threads,
        dtype=dtype,
        gemm_flops_per_second=gemm.best,
        memory_bytes_per_second=memory.best,
        repetitions=gemm.repetitions,
        gemm_spread_ratio=gemm.spread_ratio,
        memory_spread_ratio=memory.spread_ratio,
        conditions=f"torch {torch.__version__}, dense {size} x {size} x {size}, copy and triad beyond the caches",
    )
