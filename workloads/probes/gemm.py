"""The peak of dense matrix multiplication: 2 n³ operations, the best of several sizes."""

from __future__ import annotations

import torch

from workloads.device import Device, torch_dtype
from workloads.probes.timing import Rate, measure

_CPU_SIZES = (512, 1024, 2048)
_ACCELERATOR_SIZES = (2048, 4096, 8192)


def gemm_rate(dtype: str, device: Device, *, seconds: float) -> tuple[Rate, int]:
    """FLOP/s of square matrices of `dtype`, and the size that was fastest. Raises UnknownName for the dtype."""
    sizes = _CPU_SIZES if device.type == "cpu" else _ACCELERATOR_SIZES
    rates = {size: _at(size, dtype, device, seconds / len(sizes)) for size in sizes}
    fastest = max(rates, key=lambda size: rates[size].best)
    return rates[fastest], fastest


def _at(size: int, dtype: str, device: Device, seconds: float) -> Rate:
    # Random numbers, since a GPU multiplies zeros at a higher clock.
    a, b = torch.randn(2, size, size, device=device.torch).to(torch_dtype(dtype)).unbind(0)
    out = torch.empty_like(a)
    return measure(lambda: torch.mm(a, b, out=out), 2.0 * size**3, device, seconds=seconds)
