"""The latent cache: one contiguous slot per sequence.

Shape suffixes: B sequences, T new tokens, S context, M what is cached of a token (latent and rotary key).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.device import Device
from workloads.moe.config import MoeConfig


class LatentCache:
    """`slots` sequences of up to `length` tokens each, for every layer."""

    def __init__(self, config: MoeConfig, *, slots: int, length: int, device: Device) -> None:
        self.length = length
        width = config.attention.cached_values_per_token
        self.latents = [torch.zeros(slots, length, width, device=device.torch) for _ in range(config.layers)]
        self._free = list(range(slots))

    def take(self) -> int | None:
        """Return a free slot, the lowest, or None where all are in use."""
        return heapq.heappop(self._free) if self._free else None

    def give_back(self, slot: int) -> None:
        """Free a slot; what it holds is overwritten by the next sequence."""
        heapq.heappush(self._free, slot)

    def view(self, slots: Sequence[int], cached: Sequence[int], new: int) -> SlotView:
        """The cache of a batch whose sequence i lies in `slots[i]`, has `cached[i]` tokens and gets `new` more."""
        return SlotView(self.latents, slots, cached, new)


class SlotView:
    """What attention sees of the cache during one forward pass (workloads.moe.attention.Cache)."""

    def __init__(self, latents: list[Tensor], slots: Sequence[int], cached: Sequence[int], new: int) -> None:
        device = latents[0].device
        self._latents = latents
        self._slots_B1 = torch.tensor(slots, device=device)[:, None]
        self._adjacent = list(slots) == list(range(len(slots)))
        self._context = max(cached) + new
        self.positions_BT = torch.tensor(cached, device=device)[:, None] + torch.arange(new, device=device)
        self.visible_BTS: Tensor | None = None
        if any(cached):
            self.visible_BTS = torch.arange(self._context, device=device) <= self.positions_BT[..., None]

    def extend(self, layer: int, latents_BTM: Tensor) -> Tensor:
        """Keep the new tokens' latents; return those of the whole context, latents_BSM."""
        stored = self._latents[layer]
        stored[self._slots_B1, self.positions_BT] = latents_BTM
        if self.visible_BTS is None:
            return latents_BTM
        if self._adjacent:  # the first slots, in order: no copy needed
            return stored[: len(self._slots_B1), : self._context]
        return stored[self._slots_B1[:, 0], : self._context]
