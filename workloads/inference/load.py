"""How many useful tokens each expert gets."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch
from torch import Tensor

from workloads.moe.config import MoeConfig


class ExpertLoad:
    """Counts by expert layer and expert."""

    def __init__(self, config: MoeConfig, device: torch.device) -> None:
        self._layers = config.layers - config.experts.dense_layers
        self._routed = config.experts.routed
        self._first_Y11 = torch.arange(self._layers, device=device)[:, None, None] * self._routed
        self._load = torch.zeros(self._layers * self._routed, dtype=torch.int64, device=device)

    def count(self, experts: Many[Tensor], useful_L: Tensor | None) -> int:
        """Add the chosen experts_LK of each layer; return how many experts were chosen, summed over layers.

        `useful_L`: indices of the tokens that count; None: all of them.
        """
        chosen_YLK = torch.stack(list(experts)) + self._first_Y11
        if useful_L is not None:
            chosen_YLK = chosen_YLK.index_select(1, useful_L)
        load = torch.bincount(chosen_YLK.flatten(), minlength=len(self._load))
        self._load += load
        return int(load.count_nonzero())

    def total(self) -> list[list[int]]:
        """Tokens of each expert of each expert layer since the start."""
        total: list[list[int]] = self._load.view(self._layers, self._routed).tolist()
        return total
