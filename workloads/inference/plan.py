"""From turns to what a forward pass needs: one flat row of new tokens, and how each part of it attends.

Everything is built once per iteration, on the host, in as few tensors as possible: at small batches, this and not
arithmetic is what an iteration costs.

Shape suffixes: L new tokens, B decoding sequences, T new tokens of each, Q = T · H queries of one, S context.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenstone.model import LatentAttention
from workloads.inference.cache import DecodeWindow, PagedCache
from workloads.inference.scheduler import Turn
from workloads.moe.config import MoeConfig

_RAGGED = 2.0
"""Above this ratio of padded to real context, decoding sequences attend one by one."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """The first `tokens` new tokens: `sequences` of the window from slot `first`, the same number of tokens each."""

    first: int
    sequences: int
    tokens: int
    context: int
    """The longest, new tokens included."""
    contexts: list[int] | None
    """Of each, where they differ so much that they attend one by one."""
    places_L: Tensor
    bias_BQS: Tensor
    """0 where a query may attend, else minus infinity."""


@dataclass(frozen=True, slots=True)
class Prefilling:
    """New tokens from `start`: several sequences of `new` tokens with nothing cached, or one sequence."""

    start: int
    sequences: int
    new: int
    rows_S: Tensor | None
    """Rows of the whole context; None where nothing is cached."""
    visible_TS: Tensor | None
    bias_QS: Tensor | None
    expands: bool


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """One forward pass."""

    turns: list[Turn]
    """In order of the new tokens: those that decode first."""
    ids_L: Tensor
    rows_L: Tensor
    turns_LR: Tensor
    """By what rotary embedding multiplies each pair, complex."""
    turns_L1R: Tensor
    decoding: Decoding | None
    prefilling: list[Prefilling]


def expands(a: LatentAttention, new: int, cached: int) -> bool:
    """Whether `new` tokens after `cached` ones need fewer FLOPs with keys and values expanded from the latents.

    Per head and layer, expanded takes 2 · kv_rank · (nope + value) for each cached token (that of the new ones is
    part of the parameters' FLOPs), and 2 · (d_qk + d_v) for each pair of query and key; absorbed takes
    2 · (2 · kv_rank + rope) for each pair and nothing else.

    DeepSeek-V3 after 4096 cached tokens: absorbed up to 170 new ones, expanded from there.
    """
    pairs = new * cached + new * (new + 1) / 2
    expanded = a.kv_rank * (a.nope_dim + a.value_dim) * cached + (a.query_key_dim + a.value_dim) * pairs
    return expanded <= (a.cached_values_per_token + a.kv_rank) * pairs


class Planner:
    """Makes plans for one model on one device."""

    def __init__(self, config: MoeConfig, device: torch.device, *, length: int, slots: int) -> None:
        self._config, self._device = config, device
        rope = config.attention.rope_dim
        exponents = torch.arange(0, rope, 2, dtype=torch.float32, device=device) / rope
        angles = torch.arange(length, device=device)[:, None].float() * config.rope_theta**-exponents
        self._turns = torch.polar(torch.ones_like(angles), angles)
        self._positions = torch.arange(length, device=device)
        self._slots = torch.arange(slots, device=device)

    def plan(self, turns: Many[Turn], cache: PagedCache, window: DecodeWindow) -> ForwardPlan:
        """The sequences that decode must stand in the window one after the other."""
        decoding = sorted((turn for turn in turns if turn.decodes), key=lambda turn: turn.sequence.slot)
        # Prompts of one length with nothing cached stand together: they attend in one call.
        prefilling = sorted((turn for turn in turns if not turn.decodes), key=lambda turn: (turn.cached > 0, turn.new))
        ordered = decoding + prefilling
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        for turn in ordered:
            sequence, start, end = turn.sequence, turn.cached, turn.cached + turn.new
            known = sequence.tokens[start:end]
            ids += known if len(known) == turn.new else known + sequence.drafts
            positions += range(start, end)
            rows += cache.rows(sequence, start, end)
        together = torch.tensor([ids, positions, rows], dtype=torch.int64, device=self._device)
        ids_L, positions_L, rows_L = together.unbind(0)
        turns_LR = self._turns.index_select(0, positions_L)
        return ForwardPlan(
            turns=ordered,
            ids_L=ids_L,
            rows_L=rows_L,
            turns_LR=turns_LR,
            turns_L1R=turns_LR[:, None],
            decoding=self._decoding(decoding, positions_L, window) if decoding else None,
            prefilling=self._prefilling(prefilling, len(ids) - sum(t.new for t in prefilling), cache),
        )

    def _decoding(self, turns: list[Turn], positions_L: Tensor, window: DecodeWindow) -> Decoding:
        new, sequences = turns[0].new, len(turns)
        tokens = new * sequences
        contexts = [turn.cached + new for turn in turns]
        longest = max(contexts)
        positions_BT = positions_L[:tokens].view(sequences, new)
        first = turns[0].sequence.slot
        slots_B1 = self._slots[first : first + sequences, None]
        hidden_BTS = self._positions[:longest] > positions_BT[..., None]
        bias_BTS = torch.zeros(hidden_BTS.shape, device=self._device).masked_fill_(hidden_BTS, float("-inf"))
        if new > 1:
            bias_BTS = bias_BTS.repeat_interleave(self._config.attention.heads, dim=1)
        return Decoding(
            first=first,
            sequences=sequences,
            tokens=tokens,
            context=longest,
            contexts=contexts if longest * sequences > _RAGGED * sum(contexts) else None,
            places_L=(slots_B1 * window.capacity + positions_BT).flatten(),
            bias_BQS=bias_BTS,
        )

    def _prefilling(self, turns: list[Turn], start: int, cache: PagedCache) -> list[Prefilling]:
        parts: list[Prefilling] = []
        for turn in turns:
            last = parts[-1] if parts else None
            if turn.cached:
                parts.append(self._continued(turn, start, cache))
            elif last is not None and last.new == turn.new:
                parts[-1] = Prefilling(last.start, last.sequences + 1, turn.new, None, None, None, expands=True)
            else:
                parts.append(Prefilling(start, 1, turn.new, None, None, None, expands=True))
            start += turn.new
        return parts

    def _continued(self, turn: Turn, start: int, cache: PagedCache) -> Prefilling:
        """A prompt of which something is cached."""
        context = turn.cached + turn.new
        visible_TS = self._positions[:context] <= self._positions[turn.cached : context, None]
        rows_S = torch.tensor(cache.rows(turn.sequence, 0, context), device=self._device)
        if expands(self._config.attention, turn.new, turn.cached):
            return Prefilling(start, 1, turn.new, rows_S, visible_TS, None, expands=True)
        hidden_QS = (~visible_TS).repeat_interleave(self._config.attention.heads, dim=0)
        bias_QS = torch.zeros(hidden_QS.shape, device=self._device).masked_fill_(hidden_QS, float("-inf"))
        return Prefilling(start, 1, turn.new, rows_S, visible_TS, bias_QS, expands=False)
