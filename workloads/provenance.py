"""What a run's figures were measured with: versions, device, threads, data. For the reader of a report."""

from __future__ import annotations

import platform

import torch

from workloads.device import Device
from workloads.text import Corpus


def provenance(device: Device, parameters: int, corpus: Corpus, dtype: str) -> dict[str, str]:
    """Return it as short texts."""
    facts = {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": device.name,
        "device_type": device.type,
        "dtype": dtype,
        "parameters": str(parameters),
        "data": corpus.name[-400:],
        "data_sha256": corpus.sha256,
        "peak_memory_bytes": str(device.peak_memory_bytes()),
    }
    if device.threads is not None:
        facts["threads"] = str(device.threads)
    return facts
