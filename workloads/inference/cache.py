"""The latent cache: pages for every sequence, and a window in which the decoding ones lie side by side.

The pages are the truth: what is shared, found again, and handed from process to process. But torch has no attention
that reads through a page table, and gathering every context anew costs as much as attending to it. So a sequence that
begins to decode is copied into the window once, and each new token is written to both. The window takes the memory of
`max_batch` contexts of the present length beside the pages.

Shape suffixes: Y layers, R rows (one token's place in the pages), B slots of the window, S context, L new tokens,
M what is cached of a token (latent and rotary key).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workloads.inference.scheduler import Sequence

_CAPACITY_STEP = 64
"""Tokens by which the window's length is rounded up."""


class PagedCache:
    """Latents by page: page p holds rows p · page_tokens and on, the same in every layer."""

    def __init__(
        self, *, layers: int, pages: int, page_tokens: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_tokens = page_tokens
        self.latents_YRM = torch.zeros(layers, pages * page_tokens, width, dtype=dtype, device=device)
        self._layers = self.latents_YRM.unbind(0)

    def rows(self, sequence: Sequence, start: int, end: int) -> list[int]:
        """Rows of a sequence's tokens `start` to `end`."""
        size, pages = self.page_tokens, sequence.pages
        return [pages[token // size] * size + token % size for token in range(start, end)]

    def write(self, layer: int, rows_L: Tensor, latents_LM: Tensor) -> None:
        """Keep the new tokens' latents of one layer."""
        self._layers[layer].index_copy_(0, rows_L, latents_LM)

    def read(self, layer: int, rows_S: Tensor) -> Tensor:
        """latents_SM of one layer."""
        return self._layers[layer].index_select(0, rows_S)

    def read_all(self, rows_S: Tensor) -> Tensor:
        """latents_YSM of all layers."""
        return self.latents_YRM.index_select(1, rows_S)

    def write_all(self, rows_S: Tensor, latents_YSM: Tensor) -> None:
        """Keep latents of all layers."""
        self.latents_YRM.index_copy_(1, rows_S, latents_YSM)


class DecodeWindow:
    """Contexts of the decoding sequences, in slots 0 ... B - 1 without a gap."""

    def __init__(self, cache: PagedCache, *, slots: int, length: int) -> None:
        self._cache = cache
        self._slots, self._length = slots, length
        self.capacity = 0
        self.members: list[Sequence] = []
        self._window: Tensor = cache.latents_YRM[:0]
        self._grow(min(length, _CAPACITY_STEP))

    def enter(self, sequence: Sequence, tokens: int) -> None:
        """Give a sequence the next slot; what is cached of it, and room for `tokens` more."""
        self.reserve(sequence.cached + tokens)
        sequence.slot = len(self.members)
        self.members.append(sequence)
        rows = self._cache.rows(sequence, 0, sequence.cached)
        rows_S = torch.tensor(rows, device=self._window.device)
        self._window[:, sequence.slot, : sequence.cached] = self._cache.read_all(rows_S)

    def leave(self, sequence: Sequence) -> None:
        """Take a sequence out; the last one moves into its slot."""
        if sequence.slot < 0:
            return
        last = self.members.pop()
        if last is not sequence:
            self._window[:, sequence.slot, : last.cached] = self._window[:, last.slot, : last.cached]
            last.slot = sequence.slot
            self.members[last.slot] = last
        sequence.slot = -1

    def reserve(self, tokens: int) -> None:
        """Make every slot long enough for `tokens`."""
        if tokens > self.capacity:
            doubled = max(2 * self.capacity, -(-tokens // _CAPACITY_STEP) * _CAPACITY_STEP)
            self._grow(max(tokens, min(doubled, self._length)))

    def write(self, layer: int, places_L: Tensor, latents_LM: Tensor) -> None:
        """Keep new latents at slot · capacity + position."""
        self._rows[layer].index_copy_(0, places_L, latents_LM)

    def read(self, layer: int, first: int, members: int, context: int) -> Tensor:
        """latents_BSM of the slots from `first`; a view."""
        return self._layers[layer][first : first + members, :context]

    def _grow(self, capacity: int) -> None:
        latents = self._cache.latents_YRM
        grown = latents.new_zeros(latents.shape[0], self._slots, capacity, latents.shape[2])
        if self.capacity:
            grown[:, :, : self.capacity] = self._window
        self._window, self.capacity = grown, capacity
        self._layers = grown.unbind(0)
        self._rows = grown.flatten(1, 2).unbind(0)
