"""A torch device as its driver names it, so that the agent's telemetry can be joined."""

from __future__ import annotations

from typing import Any

import torch


def names_of(device: torch.device, rank: int, ranks: int) -> dict[str, Any]:
    """`device` and `device_model` for `tokenstone.record.Job`; ranks on a CPU are numbered parts of one host."""
    if device.type == "cpu":
        return {"device": "host" if ranks == 1 else f"host:{rank}"}
    properties = torch.get_device_module(device).get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    known = f"GPU-{uuid}" if device.type == "cuda" and uuid is not None else str(device)
    return {"device": known, "device_model": str(getattr(properties, "name", ""))}
