"""Memory bandwidth by copy (one array read, one written) and triad (two read, one written), far beyond the caches.

As in STREAM, what a cache reads before it overwrites it is not counted.
"""

from __future__ import annotations

import torch

from workloads.device import Device
from workloads.probes.timing import Rate, measure

_ARRAY_BYTES = {"cpu": 256 * 2**20}
_ACCELERATOR_ARRAY_BYTES = 2**30


def memory_rate(device: Device, *, seconds: float) -> Rate:
    """Bytes per second, the faster of copy and triad."""
    size = _ARRAY_BYTES.get(device.type, _ACCELERATOR_ARRAY_BYTES)
    a, b, c = (torch.ones(size // 4, device=device.torch) for _ in range(3))
    copy = measure(lambda: a.copy_(b), 2.0 * size, device, seconds=seconds / 2)
    triad = measure(lambda: torch.add(b, c, alpha=2.0, out=a), 3.0 * size, device, seconds=seconds / 2)
    return max(copy, triad, key=lambda rate: rate.best)
